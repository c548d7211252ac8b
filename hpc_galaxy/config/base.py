"""What all sections of the configuration are made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A table of the configuration: fixed keys, fixed types, read-only."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PerBand(Section):
    """One number for each of the bands g, r, z."""

    g: Positive
    r: Positive
    z: Positive

    def __getitem__(self, band: str) -> float:
        return float(getattr(self, band))
