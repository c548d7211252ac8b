/* Stamps out of planes: interleaves the channels, clamps, and counts what is no number.
 *
 * Each row of a stamp lies in other pages of memory than the row before. A stamp's rows are first copied together, with nothing
 * in between, so that the processor waits for many of them at a time; all else is done in its cache. Pixels are handled as bits,
 * so that they are copied exactly.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#define MAX_CHANNELS 64
#define MAX_SIZE 8192
#define FAR (INT64_C(1) << 40) /* corners beyond are a mistake */
#define INFINITE 0x7f800000    /* bits of a float; what is above, but for the sign, is no number */
#define PADDING 16             /* pixels between channels, which would else share the sets of the cache */

#define INLINE static inline __attribute__((always_inline))

typedef struct {
    Py_ssize_t ny, nx, size, count, channels;
    const int32_t *planes[MAX_CHANNELS];
    const char *clamped;    /* a byte a channel: whether negative pixels become 0 */
    const int64_t *corners; /* x, y of each stamp's first pixel */
    int32_t *layers;        /* a stamp, channel after channel */
    int32_t *stamps;
    int64_t *bad; /* pixels that are no finite numbers, of each channel */
} Cut;

static Py_ssize_t layer_length(const Cut *cut) { return cut->size * cut->size + PADDING; }

/* The part of a stamp's rows (or columns) that lies on the plane: [first, last). */
typedef struct { Py_ssize_t first, last; } Span;

static Span on_plane(int64_t corner, Py_ssize_t size, Py_ssize_t length) {
    Span span = {corner < 0 ? -corner : 0, length - corner < size ? length - corner : size};
    if (span.first >= span.last) span.first = span.last = 0;
    return span;
}

static void copy_rows(const Cut *cut, const int64_t *corner) {
    Span xs = on_plane(corner[0], cut->size, cut->nx), ys = on_plane(corner[1], cut->size, cut->ny);
    Py_ssize_t length = xs.last - xs.first;
    if (length < cut->size || ys.last - ys.first < cut->size) memset(cut->layers, 0, layer_length(cut) * cut->channels * 4);
    if (!length) return;
    for (Py_ssize_t c = 0; c < cut->channels; c++)
        for (Py_ssize_t row = ys.first; row < ys.last; row++)
            memcpy(cut->layers + c * layer_length(cut) + row * cut->size + xs.first,
                   cut->planes[c] + (corner[1] + row) * cut->nx + corner[0] + xs.first, length * 4);
}

static void clamp(int32_t *layer, Py_ssize_t length) {
    for (Py_ssize_t i = 0; i < length; i++) {
        int32_t pixel = layer[i];
        layer[i] = (pixel < 0) & ((pixel & 0x7fffffff) <= INFINITE) ? 0 : pixel;
    }
}

static int64_t count_bad(const int32_t *layer, Py_ssize_t length) {
    uint32_t bad = 0;
    for (Py_ssize_t i = 0; i < length; i++) bad += (layer[i] & INFINITE) == INFINITE;
    return bad;
}

INLINE void interleave(int32_t *restrict to, const int32_t *restrict layers, Py_ssize_t pixels, Py_ssize_t channels) {
    for (Py_ssize_t i = 0; i < pixels; i++)
        for (Py_ssize_t c = 0; c < channels; c++) to[i * channels + c] = layers[c * (pixels + PADDING) + i];
}

/* The numbers of channels of the usual bands (g, r, z or g, r, i, z; with and without inverse variances) are worth their own loops. */
static void interleave_any(int32_t *to, const int32_t *layers, Py_ssize_t pixels, Py_ssize_t channels) {
    switch (channels) {
    case 3: interleave(to, layers, pixels, 3); break;
    case 4: interleave(to, layers, pixels, 4); break;
    case 6: interleave(to, layers, pixels, 6); break;
    case 8: interleave(to, layers, pixels, 8); break;
    default: interleave(to, layers, pixels, channels);
    }
}

static void cut_all(const Cut *cut) {
    Py_ssize_t pixels = cut->size * cut->size;
    for (Py_ssize_t i = 0; i < cut->count; i++) {
        copy_rows(cut, cut->corners + 2 * i);
        for (Py_ssize_t c = 0; c < cut->channels; c++) {
            int32_t *layer = cut->layers + c * layer_length(cut);
            if (cut->clamped[c]) clamp(layer, pixels);
            cut->bad[c] += count_bad(layer, pixels);
        }
        interleave_any(cut->stamps + i * pixels * cut->channels, cut->layers, pixels, cut->channels);
    }
}

static int unaligned(const Py_buffer *buffer, size_t item) { return (uintptr_t)buffer->buf % item != 0; }

/* Returns what is wrong with the arguments, or NULL. */
static const char *misuse(const Cut *cut, const Py_buffer *planes, const Py_buffer *clamped, const Py_buffer *corners,
                          const Py_buffer *stamps, const Py_buffer *bad) {
    if (cut->ny < 1 || cut->nx < 1 || cut->ny > PY_SSIZE_T_MAX / 4 / cut->nx) return "an impossible shape";
    if (cut->size < 1 || cut->size > MAX_SIZE) return "an impossible size";
    for (Py_ssize_t c = 0; c < cut->channels; c++)
        if (planes[c].len != cut->ny * cut->nx * 4 || unaligned(&planes[c], 4)) return "a plane of another shape";
    if (clamped->len != cut->channels || bad->len != cut->channels * 8 || unaligned(bad, 8)) return "another number of channels";
    if (corners->len % 16 || unaligned(corners, 8)) return "corners that are no pairs";
    Py_ssize_t stamp = cut->size * cut->size * cut->channels * 4;
    if (stamps->len % stamp || stamps->len / stamp != corners->len / 16 || unaligned(stamps, 4)) return "room for another number of stamps";
    const int64_t *places = corners->buf;
    for (Py_ssize_t i = 0; i < corners->len / 8; i++)
        if (places[i] < -FAR || places[i] > FAR) return "an impossible corner";
    return NULL;
}

static PyObject *run(Cut *cut, const Py_buffer *planes, const Py_buffer *clamped, const Py_buffer *corners, const Py_buffer *stamps,
                     const Py_buffer *bad) {
    const char *mistake = misuse(cut, planes, clamped, corners, stamps, bad);
    if (mistake) return PyErr_Format(PyExc_ValueError, "cut was given %s", mistake);
    for (Py_ssize_t c = 0; c < cut->channels; c++) cut->planes[c] = planes[c].buf;
    cut->clamped = clamped->buf;
    cut->corners = corners->buf;
    cut->count = corners->len / 16;
    cut->stamps = stamps->buf;
    cut->bad = bad->buf;
    cut->layers = PyMem_Malloc(layer_length(cut) * cut->channels * 4);
    if (!cut->layers) return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS;
    cut_all(cut);
    Py_END_ALLOW_THREADS;
    PyMem_Free(cut->layers);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(cut_doc,
             "cut(planes, shape, clamped, corners, size, stamps, bad)\n--\n\n"
             "Cut stamps of size x size pixels; outside of the planes they are 0.\n\n"
             "planes is a tuple of contiguous float32 buffers of shape (ny, nx), one a channel; clamped has a byte a channel that says\n"
             "whether its negative pixels become 0; corners is int64, x and y of each stamp's first pixel; stamps is written to, float32\n"
             "of shape (stamps, size, size, channels); to bad, int64, each channel's number of pixels that are not finite is added.\n"
             "Raises ValueError when the arguments do not fit each other.");

static PyObject *cut(PyObject *Py_UNUSED(module), PyObject *arguments) {
    Cut cut = {0};
    PyObject *list, *answer = NULL;
    Py_buffer planes[MAX_CHANNELS], clamped, corners, stamps, bad;
    if (!PyArg_ParseTuple(arguments, "O!(nn)y*y*nw*w*", &PyTuple_Type, &list, &cut.ny, &cut.nx, &clamped, &corners, &cut.size, &stamps,
                          &bad))
        return NULL;
    Py_ssize_t channels = PyTuple_GET_SIZE(list);
    if (channels < 1 || channels > MAX_CHANNELS)
        PyErr_Format(PyExc_ValueError, "cut was given %zd planes, expected 1 to %d", channels, MAX_CHANNELS);
    else
        while (cut.channels < channels &&
               !PyObject_GetBuffer(PyTuple_GET_ITEM(list, cut.channels), &planes[cut.channels], PyBUF_SIMPLE))
            cut.channels++;
    if (!PyErr_Occurred()) answer = run(&cut, planes, &clamped, &corners, &stamps, &bad);
    for (Py_ssize_t c = 0; c < cut.channels; c++) PyBuffer_Release(&planes[c]);
    PyBuffer_Release(&clamped);
    PyBuffer_Release(&corners);
    PyBuffer_Release(&stamps);
    PyBuffer_Release(&bad);
    return answer;
}

static PyMethodDef methods[] = {{"cut", cut, METH_VARARGS, cut_doc}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_cut", "Stamps out of planes.", -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__cut(void) { return PyModule_Create(&definition); }
