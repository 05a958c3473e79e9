"""The picture page: what is read, what is drawn, what is said."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.dataset import Manifest
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.dataset.show import show
from hep_ray.dataset.show.pictures import bin_edges, features_of
from hep_ray.dataset.show.sample import draw_sample, kind_of
from hep_ray.errors import InvalidConfig, InvalidEvents, ShardMismatch, StorageError, UnreadableInput
from hep_ray.loading.augment import is_image
from tests.facts import raises, tells

COLUMNS = (
    Column(name="image", shape=(7, 11, 2), unit="GeV", elements=("strips", "middle")),
    Column(name="strips", shape=(56, 11)),
    Column(name="tracks", shape=(5, 3), elements=("pt", "d0", "phi"), element_units=("GeV", "mm", "")),
    Column(name="rings", shape=(100,), unit="MeV"),
    Column(name="shape_variables", shape=(2,), elements=("r_eta", "f_side")),
    Column(name="ht", unit="GeV"),
    Column(name="n", dtype="int32"),
    Column(name="volume", shape=(2, 2, 2, 2)),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """300 events of every kind of column; class <b> has twice the values of class a."""
    schema = EventSchema(
        task="toy & more",
        columns=COLUMNS,
        classes=("a", "b"),
        class_meaning={"a": "p_T < 10 GeV"},
    )
    random = np.random.default_rng(0)
    labels = np.arange(300) % 2
    events: dict[str, Any] = {"event_id": [f"e{row}" for row in range(300)], "label": labels}
    for column in COLUMNS:
        scale = (1 + labels).reshape(-1, *(1 for _ in column.shape))
        events[column.name] = (random.gamma(2.0, 5.0, (300, *column.shape)) * scale).astype(column.dtype)
    with ShardWriter(tmp_path / "toy", schema, source={"simulation": "<toy>"}, rows_per_shard=64) as writer:
        writer.write(events)
    return tmp_path / "toy"


class Page(HTMLParser):
    """Checks that tags are closed, and collects images and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attrs))
        elif tag not in {"meta", "link"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_page_holds_everything_and_needs_nothing(folder: Path) -> None:
    path = show(folder)
    assert path == folder.with_name("toy.html").absolute()
    text = path.read_text(encoding="utf-8")
    page, manifest = Page(text), Manifest.load(folder)
    assert not re.search(r"https?://|<script|<link|url\(", text)
    assert manifest.fingerprint in page.words
    assert "toy & more" in page.words
    assert "p_T < 10 GeV" in page.words
    for split, rows in manifest.split_counts().items():
        assert split in page.words
        assert str(rows) in page.words
    assert tells(page.words, f"{manifest.rows('train')} events", "train")
    assert tells(page.words, "volume", "(2, 2, 2, 2)", "not drawn")
    # balance; mean, and events of two classes, for each of two images; tracks; rings; distributions
    assert len(page.images) == 1 + 2 * 3 + 1 + 1 + 1
    for image in page.images:
        assert image["alt"]
        head, _, content = str(image["src"]).partition(",")
        assert head == "data:image/png;base64"
        assert base64.b64decode(content).startswith(b"\x89PNG")
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []


def test_the_test_split_is_never_read(folder: Path) -> None:
    with raises(InvalidConfig, "'test'"):
        show(folder, split="test")  # type: ignore[arg-type]
    manifest = Manifest.load(folder)
    for file in folder.glob("test-*.parquet"):
        file.unlink()
    drawn = draw_sample(folder, manifest, "train", 1000)
    assert len(drawn.labels) == manifest.rows("train")


def test_means_and_errors_are_those_of_the_events(folder: Path) -> None:
    manifest = Manifest.load(folder)
    sample = draw_sample(folder, manifest, "val", 1000)
    everything = [
        manifest.event_schema.decode(batch)
        for batch in pq.read_table(folder / "val-00000.parquet").to_batches()
    ]
    images = np.concatenate([events["image"] for events in everything])
    own = images[np.concatenate([events["label"] for events in everything]) == 1].astype(np.float64)
    np.testing.assert_allclose(sample.means["image"][1], own.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(sample.errors["image"][1], own.std(axis=0) / np.sqrt(len(own)), rtol=1e-6)
    np.testing.assert_array_equal(sample.singles["image"][1], own[:3])


@pytest.mark.slow
@pytest.mark.ci
def test_a_large_split_is_sampled_and_the_page_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hep_ray.dataset.show.EVENTS", 70)
    rows = Manifest.load(folder).rows("train")
    words = Page(show(folder).read_text(encoding="utf-8")).words
    assert tells(words, f"70 of {rows} events", "train")
    assert "random choice" in words


def test_elements_bring_their_names_and_units(folder: Path) -> None:
    sample = draw_sample(folder, Manifest.load(folder), "train", 1000)
    named = [(one.name, one.unit) for column in COLUMNS[4:7] for one in features_of(sample, column)]
    assert named == [("r_eta", ""), ("f_side", ""), ("ht", "GeV"), ("n", "")]


@pytest.mark.parametrize(
    ("column", "kind"),
    list(zip(COLUMNS, ["image", "image", "sequence", "profile", *["features"] * 3, "other"], strict=True)),
    ids=lambda value: getattr(value, "name", value),
)
def test_columns_are_drawn_by_their_shape(column: Column, kind: str) -> None:
    assert kind_of(column) == kind


def test_a_matrix_that_names_its_axes_is_an_image_here_as_in_training() -> None:
    column = Column(name="x", shape=(6, 2), elements=("ecal", "hcal"), axes=("eta", "phi"))
    assert is_image(column)
    assert kind_of(column) == "image"


def test_whole_numbers_stand_in_the_middle_of_bins() -> None:
    assert bin_edges(np.array([2, 3, 3, 5]), 20).tolist() == [1.5, 2.5, 3.5, 4.5, 5.5]


def test_far_outliers_do_not_stretch_an_axis() -> None:
    values = np.concatenate([np.linspace(0, 1, 10_000), [1e6]])
    edges = bin_edges(values, 10)
    assert len(edges) == 11
    assert 0 <= edges[0] < 0.01
    assert 0.99 < edges[-1] < 1.01


def test_a_constant_has_bins_too() -> None:
    for value in (0.25, 3.0):
        edges = bin_edges(np.full(10, value), 20)
        assert edges[0] < value < edges[-1]


@pytest.mark.slow
@pytest.mark.ci
def test_images_without_entries_or_with_negative_ones_are_drawn(
    make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    schema = EventSchema(
        task="t",
        columns=(Column(name="empty", shape=(4, 4)), Column(name="noise", shape=(4, 4))),
        classes=("a", "b"),
    )
    with ShardWriter(tmp_path / "d", schema) as writer:
        writer.write(
            {
                "event_id": [f"e{row}" for row in range(60)],
                "label": np.arange(60) % 2,
                "empty": np.zeros((60, 4, 4), dtype=np.float32),
                "noise": np.random.default_rng(0).normal(size=(60, 4, 4)).astype(np.float32),
            }
        )
    assert len(Page(show(tmp_path / "d").read_text(encoding="utf-8")).images) == 1 + 2 * 3


def test_refusals_leave_no_page(make_dataset: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_dataset(60)
    with pytest.raises(UnreadableInput):
        show(tmp_path / "nothing")
    with pytest.raises(StorageError):
        show(folder, folder / "manifest.json" / "page.html")
    (folder / "val-00000.parquet").write_bytes(b"PAR1")
    with raises(ShardMismatch, "val-00000.parquet", "truncated"):
        show(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


def test_an_empty_split_is_refused(make_dataset: Callable[..., Path]) -> None:
    from hep_ray.dataset.splits import SplitRule

    folder = make_dataset(60, rule=SplitRule(train=0.7, val=0.0, test=0.3))
    with raises(InvalidEvents, folder, "'val'"):
        show(folder, split="val")


@pytest.mark.slow
@pytest.mark.ci
def test_the_command_prints_the_page_and_what_to_do_next(folder: Path, tmp_path: Path) -> None:
    import typer

    from hep_ray.dataset.show import show_command as command

    app = typer.Typer()
    app.command()(command)
    out = tmp_path / "page.html"
    result = CliRunner().invoke(app, [str(folder), "--out", str(out.with_suffix("")), "--split", "val"])
    assert result.exit_code == 0, result.output
    assert out.is_file()
    assert str(out) in result.output.replace("\n", "")
    assert "next: hep-ray data check" in result.output
