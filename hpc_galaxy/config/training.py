"""The section [train] and what is below it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hpc_galaxy.config.base import Count, Fraction, NotNegative, Positive, Section


class Data(Section):
    """How examples reach the network.

    Attributes
    ----------
    window : int
        Shards within which examples are shuffled, after the shards themselves have been. 512 examples of 98 kB each: 64 shards
        are 3.2 GB that all ranks read from at a time.
    prefetch : int
        Batches that are read ahead, in one background thread.
    stage : str
        A directory on each node (``/tmp``, ``/dev/shm``, a burst buffer) into which the shards are copied first; empty: none.
    inputs : list
        What the network sees of the stamps, each in all bands: ``image``, ``invvar``, or ``snr``, image times square root of
        the inverse variance. Empty: the planes that the shards have.
    bands : list
        Which bands of these the network sees; empty: all that the shards have.
    mask_centre : float
        A negative control: everything within this of the middle of a stamp is taken away, arcsec; 0: nothing.
    normalise : str
        ``arcsinh``: (arcsinh(pixel / scale) - mean) / std with the manifest's statistics. ``standard``: (pixel - mean) / std.
    augment : list
        What is done to training stamps at random: ``flip`` (left-right), ``rotate`` (by multiples of 90 degrees), ``shift``
        (by up to `max_shift` whole pixels in x and y; what comes in has no data).
    max_shift : int
        Pixels. Shifts hide a difference in centroid from the network.
    """

    window: Count = 64
    prefetch: Count = 3
    stage: str = ""
    inputs: tuple[Literal["image", "invvar", "snr"], ...] = ()
    bands: tuple[Literal["g", "r", "i", "z"], ...] = ()
    mask_centre: NotNegative = 0.0
    normalise: Literal["arcsinh", "standard"] = "arcsinh"
    augment: tuple[Literal["flip", "rotate", "shift"], ...] = ()
    max_shift: Annotated[int, Field(ge=1, le=32)] = 2


class Optimizer(Section):
    """What turns gradients into steps.

    Attributes
    ----------
    name : str
        ``sgd``, ``adagrad``, ``rmsprop``, ``adam``, ``adamw``, and for large global batches ``lars`` (SGD) or ``lamb`` (AdamW).
    learning_rate : float
        For a global batch of `scale_from` examples where `scaling` is set, otherwise for any.
    momentum, nesterov : float, bool
        Of ``sgd``, ``rmsprop`` and ``lars``; Nesterov's variant for ``sgd`` alone.
    betas, eps : tuple of float, float
        Of the Adam family and LAMB; `eps` of RMSProp and AdaGrad as well.
    weight_decay : float
        Decoupled from the gradient in ``adamw`` and ``lamb``, added to it elsewhere. Vectors (biases) are not decayed.
    trust : float
        LARS's trust coefficient.
    clip_norm : float
        Gradients whose norm over all parameters is larger are shortened to it; 0: none.
    scaling : str
        How the learning rate grows with the global batch over `scale_from`: ``none``, ``linear`` (for SGD), ``sqrt`` (for Adam).
    scale_from : int
        Examples.
    """

    name: Literal["sgd", "adagrad", "rmsprop", "adam", "adamw", "lars", "lamb"] = "adam"
    learning_rate: Positive = 1e-3
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    eps: Positive = 1e-8
    weight_decay: NotNegative = 0.0
    trust: Positive = 1e-3
    clip_norm: NotNegative = 0.0
    scaling: Literal["none", "linear", "sqrt"] = "none"
    scale_from: Count = 256


class Schedule(Section):
    """How the learning rate changes over a training; a function of the number of examples seen, so a resumed run needs no memory of it.

    Attributes
    ----------
    name : str
        ``constant``; ``step``: times `factor` at each of `milestones`; ``cosine``: down to `floor`; ``one_cycle``: up from `floor` over the
        first `rise` of the training and down to it again.
    warmup : float
        Epochs over which the learning rate rises from zero (not with ``one_cycle``, which has a rise of its own).
    milestones : list of float
        Epochs.
    factor, floor, rise : float
        As said; `floor` is a fraction of the learning rate.
    """

    name: Literal["constant", "step", "cosine", "one_cycle"] = "constant"
    warmup: NotNegative = 0.0
    milestones: tuple[Positive, ...] = ()
    factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    floor: Fraction = 0.0
    rise: Annotated[float, Field(gt=0, lt=1)] = 0.3


class Horovod(Section):
    """Horovod's settings.

    Attributes
    ----------
    compression : str
        ``none``, or ``fp16``: gradients travel in half precision.
    cycle_time_ms, fusion_mb : float
        How often its background thread looks for work, and how much it sends at a time; 0 leaves Horovod's defaults (1 ms, 128 MB).
    flat : bool
        One message a step, of all gradients, after the backward pass. Otherwise one a tensor, during it, which Horovod fuses.
    """

    compression: Literal["none", "fp16"] = "none"
    cycle_time_ms: NotNegative = 0.0
    fusion_mb: NotNegative = 0.0
    flat: bool = True


class Ddp(Section):
    """torch DistributedDataParallel's settings.

    Attributes
    ----------
    bucket_mb : float
        Gradients that travel together.
    compression : str
        ``none``, ``fp16`` or ``bf16``: how they travel.
    """

    bucket_mb: Positive = 25.0
    compression: Literal["none", "fp16", "bf16"] = "none"


class Saving(Section):
    """Checkpoints, and the picture of the training.

    Attributes
    ----------
    every_steps : int
        Also within epochs, after so many steps; 0: at the end of each epoch alone.
    every_minutes : float
        Also when so much time has passed; 0: never.
    keep : int
        The newest that are kept; the best is kept besides.
    curve : bool
        Whether to draw the learning curve at the end, which takes a second, most of it matplotlib's start.
    """

    every_steps: Annotated[int, Field(ge=0)] = 0
    every_minutes: NotNegative = 0.0
    keep: Count = 3
    curve: bool = True


class Watchdog(Section):
    """When a job that no longer advances is ended.

    Attributes
    ----------
    silent_seconds : float
        A rank that has given no sign of life for so long (stopped, or its node gone) ends the job; 0: never.
    stalled_seconds : float
        A rank that gives signs of life but has not advanced for so long ends the job; 0: never. Longer than the slowest read.
    """

    silent_seconds: NotNegative = 20.0
    stalled_seconds: NotNegative = 900.0


class Train(Section):
    """The training.

    Attributes
    ----------
    model : str
        ``cnn2018``; ``resnet``, which is deeper (20 layers, He et al. 2016); or ``dummy``, which sees nothing and predicts the commoner
        class: the baseline of any accuracy.
    networks : int
        How many are trained, one after another, that differ in nothing but the seed: this configuration's and those that follow.
    epochs : int
        Passes through the training examples.
    batch_size : int
        Examples that a rank holds at a time.
    accumulate : int
        Such batches a rank and step, whose gradients are added up before they are averaged over the ranks (Horovod calls it
        ``backward_passes_per_step``).
    global_batch : int
        Examples a step, over all ranks. 0: batch_size x accumulate x ranks. A run that is continued keeps the one it began with,
        whatever the number of ranks.
    label_smoothing : float
        Of the cross entropy.
    class_weights : str
        ``balanced``: each class counts as if it were half of the training split. ``none``: each example counts alike.
    patience : int
        Epochs without a lower validation loss after which the training ends; 0: never.
    precision : str
        ``float32``, or ``bfloat16``: autocast. Where the processor has no instructions for it, it is refused.
    force_bfloat16 : bool
        Use it all the same.
    compile : bool
        Whether the network goes through torch.compile.
    ipex : bool
        Whether intel-extension-for-pytorch works on network and optimizer, where it is installed and able.
    channels_last : bool
        Whether the weights lie channels-last as well, the input does in any case.
    backend : str
        How gradients are averaged: ``horovod``; ``ddp`` (torch DistributedDataParallel); ``mpi``: one flat buffer through MPI, for CPU
        nodes; ``serial``; or ``auto``: Horovod where it is installed, otherwise DDP, and serial for one process.
    threads : int
        Threads a rank; 0 shares the node's cores among its ranks.
    bind : bool
        Whether ranks that the launcher has left free to roam are bound to cores of their own.
    log_steps : int
        TensorBoard gets loss, learning rate and gradient norm after each so many steps.
    """

    model: Literal["cnn2018", "resnet", "dummy"] = "cnn2018"
    networks: Count = 1
    epochs: Count = 4
    batch_size: Count = 32
    accumulate: Count = 1
    global_batch: Annotated[int, Field(ge=0)] = 0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    class_weights: Literal["none", "balanced"] = "none"
    patience: Annotated[int, Field(ge=0)] = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    force_bfloat16: bool = False
    compile: bool = False
    ipex: bool = False
    channels_last: bool = False
    backend: Literal["auto", "horovod", "ddp", "mpi", "serial"] = "auto"
    threads: Annotated[int, Field(ge=0)] = 0
    bind: bool = True
    log_steps: Count = 10
    data: Data = Data()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    horovod: Horovod = Horovod()
    ddp: Ddp = Ddp()
    saving: Saving = Saving()
    watchdog: Watchdog = Watchdog()

    @model_validator(mode="after")
    def _one_way(self) -> Train:
        if self.global_batch and self.accumulate > 1:
            raise ValueError("global_batch and accumulate are both set; give one of them")
        return self
