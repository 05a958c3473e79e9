"""Schema files: a TOML file that says how the tables of some format become the columns of a dataset.

`--schema NAME` takes one of the ready-made files in `schemas/`, `--schema FILE.toml` one's own; without any,
every numeric field of the input becomes a column.
"""

from __future__ import annotations

import importlib.resources
import math
import tomllib
from pathlib import Path
from typing import Literal

from pydantic import Field, FiniteFloat, JsonValue, PositiveFloat, PositiveInt, model_validator

from hep_ray.config import Config, parse
from hep_ray.dataset.expressions import Expression
from hep_ray.dataset.histogram import CIRCLE, SLACK, EtaPhiGrid
from hep_ray.dataset.schema import Column
from hep_ray.dataset.variations import Variation
from hep_ray.errors import InvalidConfig, InvalidSchema, UnknownName, UnreadableInput

SCHEMAS = importlib.resources.files("hep_ray.conversion") / "schemas"
LARGEST = 2**20
"""Bytes of a schema file, at most."""


class LabelRule(Config):
    """How an event's class is known.

    Attributes:
        from_: `file`: one input for each class, in their order; `part`: the tree, dataset or folder is the class;
            `field`: the value of a field; `where`: the expression that it fulfils.
        parts: with `part`, the names of the parts in the order of the classes; by default the classes' own.
        field: with `field`, its name.
        values: with `field`, its values in the order of the classes. By default a field of text has the names of the
            classes; one of numbers has 0, 1, …, or the classes' names if these are whole numbers such as -1 and +1.
        where: with `where`, one expression for each class; events that fulfil none are left out.
    """

    from_: Literal["file", "part", "field", "where"] = Field(default="file", alias="from")
    parts: tuple[str, ...] = ()
    field: str | None = None
    values: tuple[int | float | str, ...] = ()
    where: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> LabelRule:
        for name, rule in (("parts", "part"), ("field", "field"), ("values", "field"), ("where", "where")):
            if getattr(self, name) and self.from_ != rule:
                raise ValueError(
                    f"'{name}' is given, and the label is from '{self.from_}', not from '{rule}'"
                )
        if self.from_ == "field" and not self.field:
            raise ValueError("a label from 'field' must name the field")
        if self.from_ == "where" and not self.where:
            raise ValueError("a label from 'where' must have an expression for each class")
        for text in self.where:
            Expression(text)
        return self


class EventIdRule(Config):
    """Rule that makes an event's id.

    Attributes:
        fields: whose values are joined after the name of the class; by default the file's name and the format's
            own id of the event, or the row's number.
        as_is: leave the name of the class out.
    """

    fields: tuple[str, ...] = ()
    as_is: bool = False


class LayerRule(Config):
    """Lists that fill channels of an image, one item after the other.

    Attributes:
        eta: expression of an item's η, such as `part_eta - jet_eta`.
        phi: of its φ, in any convention where φ goes all the way round.
        sums: one expression for each channel, whose pixels are the sums over the items that lie in them.
    """

    eta: str
    phi: str
    sums: tuple[str, ...] = Field(min_length=1)


class ImageRule(Config):
    """Histogram over φ and η that a column is made of.

    Attributes:
        pixels: along φ and along η.
        phi_range: from where to where; the whole circle by default.
        eta_range: likewise.
        centre: what lies in the middle: `none`, nothing in particular; `hardest`, the item of largest value in the
            first channel; `weighted`, the mean of the first layer's items, weighted by the first channel.
        layers: fill the channels in their order.
        allow_empty: of an event without an item in the window, keep the image of zeros; it is refused otherwise.
    """

    pixels: tuple[PositiveInt, PositiveInt]
    phi_range: tuple[float, float] = (-math.pi, math.pi)
    eta_range: tuple[float, float]
    centre: Literal["none", "hardest", "weighted"] = "none"
    layers: tuple[LayerRule, ...] = Field(min_length=1)
    allow_empty: bool = False

    @model_validator(mode="after")
    def _not_empty(self) -> ImageRule:
        for name in ("phi_range", "eta_range"):
            low, high = getattr(self, name)
            if low >= high:
                raise ValueError(f"{name} = [{low:g}, {high:g}] is empty: the first must be below the second")
        if self.phi_range[1] - self.phi_range[0] > CIRCLE + SLACK:
            raise ValueError(f"phi_range {list(self.phi_range)} is more than the circle of 2π")
        for text in self.expressions:
            Expression(text)
        return self

    @property
    def expressions(self) -> tuple[str, ...]:
        """All expressions of its layers."""
        return tuple(text for layer in self.layers for text in (layer.eta, layer.phi, *layer.sums))

    @property
    def grid(self) -> EtaPhiGrid:
        """The pixels."""
        return EtaPhiGrid(self.pixels, self.phi_range, self.eta_range)


class ColumnRule(Config):
    """Where a column's values come from.

    Attributes:
        name: of the column.
        sources: fields of the input; several are stacked along a new last axis; the column's name by default.
        expression: of fields, instead of `sources`.
        image: histogram of lists over φ and η, instead of `sources`.
        dtype: of the column; a value that it cannot hold is refused.
        unit: of the values.
        elements: names along the last axis; those of several sources by default.
        element_units: a unit for each element, where they differ.
        axes: names of an image's first two axes, such as `phi` and `eta`, or `delta_phi` and `delta_eta` in a window
            around a jet or a candidate; without them nothing turns or reflects the image. A histogram has φ first,
            unless its axes are stated the other way round.
        max_length: the column is one of lists of varying length, of at most so many items; several sources are the
            values of an item, whose lists must be equally long in an event. Longer lists are refused.
        cut: keep the first `max_length` items of a longer list instead; the conversion says how many were cut.
        count: field that says how many items of an array of fixed length are there, from the first on.
        pad_to: of lists of variable length the first so many values are kept, shorter lists are filled up.
        pad_value: what they are filled with.
        shape: of one event's value; flat values of that size are reshaped.
        missing: what takes the place of values that are NaN, null or an empty cell; by default they are refused. `nan`
            keeps them as NaN, which networks fill by what the training events have, and trees take as it is.
        sentinels: values that stand for a missing one too, such as -999.
        missing_indicator: adds the column `<name>_missing`, 1 where a value was missing, else 0.
    """

    name: str
    sources: tuple[str, ...] = ()
    expression: str | None = None
    image: ImageRule | None = None
    dtype: str = "float32"
    unit: str = ""
    elements: tuple[str, ...] = ()
    element_units: tuple[str, ...] = ()
    axes: tuple[str, ...] = ()
    max_length: int | None = Field(default=None, ge=1)
    cut: bool = False
    count: str | None = None
    pad_to: int | None = Field(default=None, ge=1)
    pad_value: float = 0.0
    shape: tuple[int, ...] | None = None
    missing: FiniteFloat | Literal["nan"] | None = None
    sentinels: tuple[float, ...] = ()
    missing_indicator: bool = False

    @model_validator(mode="after")
    def _sound(self) -> ColumnRule:
        if self.expression is not None:
            Expression(self.expression)
            if self.sources:
                raise ValueError(f"column '{self.name}' has both sources and an expression")
        if self.missing is None and (self.sentinels or self.missing_indicator):
            raise ValueError(
                f"column '{self.name}' has 'sentinels' or 'missing_indicator' and no 'missing', the value that takes "
                "the place of a missing one"
            )
        if self.image is not None:
            self._check_image()
        elif self.max_length is None and (self.cut or self.count):
            raise ValueError(
                f"column '{self.name}' has 'cut' or 'count' and no 'max_length', the most items of its lists"
            )
        if self.max_length is not None:
            if self.missing == "nan":
                raise ValueError(
                    f"column '{self.name}' has 'max_length', which makes it one of lists, where NaN stands for none: "
                    "state a number as 'missing'"
                )
            others = ("expression", "pad_to", "shape", "missing_indicator", "axes")
            if given := [name for name in others if getattr(self, name)]:
                raise ValueError(
                    f"column '{self.name}' has 'max_length', which makes it one of lists, and {given[0]}"
                )
        Column(name=self.name, dtype=self.dtype, missing=self.missing == "nan")
        return self

    def _check_image(self) -> None:
        others = (
            "sources",
            "expression",
            "max_length",
            "cut",
            "pad_to",
            "shape",
            "missing",
            "missing_indicator",
        )
        if given := [name for name in others if getattr(self, name) not in (None, False, ())]:
            raise ValueError(f"column '{self.name}' has 'image', a histogram of lists, and '{given[0]}'")
        if self.count and self.image is not None and len(self.image.layers) > 1:
            raise ValueError(
                f"the image '{self.name}' has {len(self.image.layers)} layers and one 'count', which cannot count the "
                "items of all: make an image of each, or store lists"
            )
        if self.axes and {axis.removeprefix("delta_") for axis in self.axes} != {"phi", "eta"}:
            raise ValueError(
                f"the image '{self.name}' has the axes {list(self.axes)}; a histogram has phi and eta, or delta_phi "
                "and delta_eta, in either order"
            )

    @property
    def indicator(self) -> str | None:
        """Name of the column that tells which values were missing, if there is one."""
        return f"{self.name}_missing" if self.missing_indicator else None

    @property
    def reads(self) -> tuple[str, ...]:
        """The fields that the column is made of."""
        texts = self.image.expressions if self.image else (self.expression,) if self.expression else ()
        names = [name for text in texts for name in Expression(text).names]
        return tuple(dict.fromkeys(names)) if texts else self.sources or (self.name,)

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that must be read for it: `reads`, and the one that counts."""
        return (*self.reads, self.count) if self.count else self.reads


class ProcessRule(Config):
    """One process of a normalisation.

    Attributes:
        files: pattern of the names of its files, such as `ttbar_*.root`.
        cross_section: in the inverse unit of the luminosity.
        sum_of_weights: of the generator, before any selection; that of all rows of its files unless given.
    """

    files: str
    cross_section: PositiveFloat
    sum_of_weights: PositiveFloat | None = None


class NormalisationRule(Config):
    """Scale of weights: each is multiplied by cross section × luminosity / sum of weights of its process.

    Attributes:
        luminosity: integrated, such as 140 in fb⁻¹ with cross sections in fb.
        processes: every file is of one of them.
    """

    luminosity: PositiveFloat
    processes: tuple[ProcessRule, ...]


class SchemaFile(Config):
    """Contents of a schema file.

    Attributes:
        task: name of the classification task.
        reader: name of the format.
        classes: in the order of their labels; empty leaves them to the command line.
        signal: the class counted as signal.
        class_meaning: class name → one sentence.
        options: of the reader.
        label: how an event's class is known.
        event_id: how an event is identified.
        selection: expression over fields that events fulfil, the others are left out.
        columns: of the dataset; none means every numeric field of the input.
        weight: column of sample weights.
        group: column that divides the events.
        split_by: column that decides the split: events of one value are in one.
        spectators: columns that no model sees, beside.
        expected: class → events expected in all splits together.
        normalisation: of the weights.
        variations: name → systematic variation, `[variations.NAME]`, of columns of the dataset.
    """

    task: str | None = None
    reader: str
    classes: tuple[str, ...] = ()
    signal: str | None = None
    class_meaning: dict[str, str] = Field(default_factory=dict)
    options: dict[str, JsonValue] = Field(default_factory=dict)
    label: LabelRule = LabelRule()
    event_id: EventIdRule = EventIdRule()
    selection: str | None = None
    columns: tuple[ColumnRule, ...] = ()
    weight: str | None = None
    group: str | None = None
    split_by: str | None = None
    spectators: tuple[str, ...] = ()
    expected: dict[str, PositiveFloat] = Field(default_factory=dict)
    normalisation: NormalisationRule | None = None
    variations: dict[str, Variation] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _understood(self) -> SchemaFile:
        if self.selection is not None:
            Expression(self.selection)
        return self


def known_schemas() -> list[str]:
    """Return names of the ready-made schema files."""
    return sorted(
        file.name.removesuffix(".toml") for file in SCHEMAS.iterdir() if file.name.endswith(".toml")
    )


def load_schema(name: str) -> SchemaFile:
    """Return a ready-made schema by its name, or one's own by its path (ending in `.toml`).

    Raises:
        UnknownName: there is no ready-made schema of this name.
        UnreadableInput: the file cannot be read, or is not TOML.
        InvalidSchema: it says what no schema file can say; every fault is listed.
    """
    if not name.endswith(".toml"):
        if name not in known_schemas():
            raise UnknownName(f"schema '{name}' is neither FILE.toml nor one of {', '.join(known_schemas())}")
        return parse_schema((SCHEMAS / f"{name}.toml").read_text("utf-8"), name)
    try:
        content = Path(name).read_bytes()
    except (OSError, ValueError) as exc:
        raise UnreadableInput(f"cannot read the schema file {name}: {exc}") from None
    if len(content) > LARGEST:
        raise UnreadableInput(f"the schema file {name} has {len(content)} bytes, more than {LARGEST}")
    try:
        return parse_schema(content.decode("utf-8"), name)
    except UnicodeDecodeError as exc:
        raise UnreadableInput(f"the schema file {name} is no UTF-8 text: {exc}") from None


def parse_schema(text: str, where: str) -> SchemaFile:
    """Return what the text of a schema file says.

    Raises:
        UnreadableInput: it is not TOML.
        InvalidSchema: it says what no schema file can say.
    """
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        raise UnreadableInput(f"the schema file {where} is no TOML: {exc}") from None
    shown = f"schema file {where}"
    try:
        return parse(SchemaFile, values, shown, InvalidSchema)
    except (InvalidConfig, InvalidSchema) as exc:
        said = str(exc)
        raise InvalidSchema(said if said.startswith(shown) else f"{shown}: {said}") from None
