"""The HTML report: complete, of one piece, safe from what paths contain, and alive in a browser."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from fastdual.evaluate.embed import EmbedOptions
from fastdual.evaluate.hold_out import ALL, as_one_set
from fastdual.evaluate.results import make_result, result_file, write_result
from fastdual.loaders.files import sha256_of
from fastdual.report.collect import Evidence, collect
from fastdual.report.page import read_facts, render, write_page
from fastdual.weights.load import load_network
from tests.evaluate.small import small_checkpoint, small_index, small_index_file
from tests.runs import invoke

SECTIONS = [
    "curves",
    "retrieval",
    "gallery",
    "map",
    "segments",
    "variance",
    "confusion",
    "results",
    "quarantine",
]
_VOID = {"meta", "link", "img", "br"}
_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
]


class Page(HTMLParser):
    """Reads a page strictly: every element is closed in its turn, every id stands once."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[str, str] = {}
        self._section = ""
        self.feed(page)
        assert self.open == []
        ids = [attributes["id"] for _, attributes in self.elements if "id" in attributes]
        assert len(ids) == len(set(ids))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.elements.append((tag, attributes))
        if tag == "section":
            self._section = attributes["id"]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts[self._section] = self.texts.get(self._section, "") + data

    def of_class(self, name: str) -> list[dict[str, str]]:
        return [a for _, a in self.elements if name in a.get("class", "").split()]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of the small checkpoint, with a log, a result and a video in quarantine."""
    folder = tmp_path_factory.mktemp("report") / "first <run>"
    (folder / "checkpoints").mkdir(parents=True)
    shutil.copy(small_checkpoint(), folder / "checkpoints")
    readings = [
        {"event": "train", "step": i, "epoch": i / 2, "loss": 8 / (i + 1), "clip_top1": i / 9}
        for i in range(9)
    ]
    counts = {"decoders": {"nvdec": 30, "pyav": 2}, "substituted": {"NVDEC decodes no flv1": 2}}
    readings += [{"event": "decoded", "step": 8, **counts}]
    (folder / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in readings))
    bad = {"path": "kick/<b>bad</b>.mp4", "reason": "moov atom not found"}
    (folder / "quarantine.jsonl").write_text(json.dumps(bad) + '\n{"path": "cut')
    return folder


def test_fine_tuned_accuracy_stands_beside_that_from_scratch(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "pretrained")
    own = sha256_of(small_checkpoint())
    metric = {"value": 0.75, "low": 0.5, "high": 1.0, "confidence": 0.95, "resampled": "videos"}
    for folder, weights, data, task, value in (
        ("tuned", own, "d1", "finetune", 0.75),
        ("scratch", "random weights, seed 0", "d1", "finetune", 0.25),
        ("scratch-linear", "random weights, seed 0", "d1", "linear", 0.125),
        ("of-others", "0" * 64, "d1", "finetune", 0.5),
        ("other-data", "random weights, seed 0", "d2", "finetune", 0.625),
    ):
        split = {"train": "train", "test": "test", "num_train": 8, "num_test": 8}
        split |= {"metrics": {"top1": {**metric, "value": value}}}
        split |= {"left_out": {"test": []}, "overlaps": []}
        result = make_result(
            task=task, command="", weights_sha256=weights, data_fingerprint=data,
            settings={"backbone": "tiny", "config": {}}, splits=[split],
        )  # fmt: skip
        (tmp_path / folder / "results").mkdir(parents=True)
        write_result(result_file(tmp_path / folder, result), result)
    (tmp_path / "tuned" / "results" / "of another program.json").write_text("[]")
    results = read_facts(tmp_path / "pretrained").results
    assert [name for name, _ in results] == ["finetune-test", "finetune-random-test"]
    text = render(read_facts(tmp_path / "pretrained"), None)
    assert "75.0" in text and "25.0" in text


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    quick = ["--workers", "1", "--device", "cpu", "--clips-per-video", "2"]
    done = invoke(["report", str(run), str(small_index_file()), *quick])
    assert done.exit_code == 0, done.output
    assert f"{run / 'report.html'}: " in done.stdout
    return (run / "report.html").read_text()


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    trained, untrained = (load_network(small_checkpoint(), random_weights=r) for r in (False, True))
    return collect(
        trained,
        untrained,
        small_index(),
        splits=("train", "test"),
        options=EmbedOptions(clips_per_video=2, num_workers=1),
        overlaps=[],
    )


def test_page_shows_every_part_with_its_numbers(page: str) -> None:
    read = Page(page)
    assert [a["id"] for tag, a in read.elements if tag == "section"] == SECTIONS
    assert "8 videos of the split 'test'" in read.texts["retrieval"]
    assert "random weights" in read.texts["retrieval"] and "chance12.5" in read.texts["retrieval"]
    # 8 queries with five neighbours each, every one marked; as the classes and cosines say.
    assert len(read.of_class("lookup")) == len(read.of_class("query")) == 8
    right, wrong = len(read.of_class("right")), len(read.of_class("wrong"))
    assert right + wrong == 40
    assert (read.texts["gallery"].count("✓"), read.texts["gallery"].count("✗")) == (right, wrong)
    # Both maps hold all 24 videos: 16 discs and 8 squares each.
    dots = [tag for tag, a in read.elements if "dot" in a.get("class", "").split()]
    assert (dots.count("circle"), dots.count("rect")) == (32, 16)
    assert "% where segments changed places" in read.texts["segments"]
    assert len(read.of_class("inter")) == len(read.of_class("intra")) == 4
    assert "of the test videos right" in read.texts["confusion"]
    assert "moov atom not found" in read.texts["quarantine"]
    assert "<b>bad</b>" in read.texts["quarantine"] and "cut" not in read.texts["quarantine"]
    assert "nvdec 30, pyav 2; in place of another: NVDEC decodes no flv1 (2)" in page
    strips = re.findall(r"^\.t(\d+)\{background-image:url\(data:image/jpeg;base64,", page, re.M)
    assert sorted(map(int, strips)) == list(range(24))


def test_page_names_nothing_outside_itself(page: str) -> None:
    read = Page(page)
    for tag, attributes in read.elements:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            value = attributes.get(name, "")
            assert value.startswith(("data:", "#")) or value == "", (tag, value)
    assert not re.search(r"url\((?!data:)", page)
    assert not re.search(r"@import|https?://", page)
    policy = [a["content"] for _, a in read.elements if "http-equiv" in a]
    assert policy and policy[0].startswith("default-src 'none'")


def test_paths_and_classes_cannot_become_markup(run: Path, evidence: Evidence) -> None:
    attack = "</script><script>alert(1)</script>'\">&"
    features = evidence.trained.features
    named = replace(
        features,
        paths=tuple(f"{attack}{path}" for path in features.paths),
        class_names=tuple(f"{attack}{name}" for name in features.class_names),
    )
    hostile = replace(evidence, trained=replace(evidence.trained, features=named))
    read = Page(render(read_facts(run), hostile))
    assert [tag for tag, _ in read.elements].count("script") == 3
    assert attack in read.texts["gallery"]


def test_without_labels_the_page_says_what_it_cannot_show(run: Path, evidence: Evidence) -> None:
    index = small_index()
    unlabelled = replace(index, labels=np.full_like(index.labels, -1))
    networks = [load_network(small_checkpoint(), random_weights=r) for r in (False, True)]
    found = collect(
        *networks,
        unlabelled,
        splits=("train", "test"),
        options=EmbedOptions(clips_per_video=1, num_workers=1),
        overlaps=[],
    )
    read = Page(render(read_facts(run), found))
    for section in ("retrieval", "confusion"):
        assert "have no label" in read.texts[section]
    assert read.of_class("right") == read.of_class("wrong") == []
    assert len(read.of_class("dot")) == 48


def test_videos_without_classes_and_splits_are_looked_up_among_the_others(run: Path) -> None:
    index = small_index()
    whole = as_one_set(replace(index, splits={}, labels=np.full_like(index.labels, -1)))
    networks = [load_network(small_checkpoint(), random_weights=r) for r in (False, True)]
    options = EmbedOptions(clips_per_video=1, num_workers=1)
    found = collect(*networks, whole, splits=(ALL, ALL), options=options, overlaps=[])
    assert all(lookup.query not in lookup.found for lookup in found.lookups)
    assert len(found.lookups) == 12
    read = Page(render(read_facts(run), found))
    assert "12 videos, drawn at random, and the nearest of the others" in read.texts["gallery"]
    assert "no classes" in read.texts["retrieval"] and "squares" not in read.texts["map"]
    assert "No verdict: the videos have no classes" in read.texts[""]
    assert "Segments whose match beats all others" in read.texts["segments"]
    assert read.of_class("right") == read.of_class("wrong") == []


def test_a_page_marks_videos_that_were_pretrained_on(run: Path, evidence: Evidence) -> None:
    features = evidence.trained.features
    seen = np.zeros(len(features), dtype=bool)
    seen[features.split("test")[:3]] = True
    marked = replace(evidence.trained, features=replace(features, pretrained_on=seen))
    read = Page(render(read_facts(run), replace(evidence, trained=marked)))
    assert "pretrained on 3 of these 8 videos, without labels" in read.texts["retrieval"]
    assert "pretrained on 3 of these videos" in read.texts[""]
    assert "pretrained on" not in Page(render(read_facts(run), evidence)).texts["retrieval"]


def test_head_that_the_objective_does_not_train_is_not_shown(run: Path, evidence: Evidence) -> None:
    networks = [load_network(small_checkpoint(), random_weights=r) for r in (False, True)]
    loss = replace(networks[0].config.loss, objective="clip")
    plain = [replace(n, config=replace(n.config, loss=loss)) for n in networks]
    options = EmbedOptions(clips_per_video=2, num_workers=1)
    found = collect(*plain, small_index(), splits=("train", "test"), options=options, overlaps=[])
    texts = Page(render(read_facts(run), found)).texts
    assert "its objective does not train that of the segments" in texts["segments"]
    assert "features of clips" in texts["variance"]
    assert "segment embeddings" not in texts["variance"]
    assert "segment embeddings" in Page(render(read_facts(run), evidence)).texts["variance"]


def test_run_alone_has_a_page_too(run: Path, tmp_path: Path) -> None:
    done = invoke(["report", str(run), "-o", str(tmp_path / "x" / "r.html")])
    assert done.exit_code == 0, done.output
    read = Page((tmp_path / "x" / "r.html").read_text())
    names = [a["id"] for tag, a in read.elements if tag == "section"]
    assert names == ["curves", "results", "quarantine"]
    assert "next" not in done.stderr  # the run has not kept its videos


def test_mistakes_are_one_line_and_exit_2(run: Path, tmp_path: Path) -> None:
    data = str(small_index_file())
    for message, words in {
        "no such run folder": ["none"],
        "the index has no split 'val'": [str(run), data, "--queries", "val"],
        "overlap in 16 pairs": [str(run), data, "--queries", "train"],
    }.items():
        done = invoke(["report", *words, "-o", str(tmp_path / "r.html")])
        assert done.exit_code == 2, (message, done.output)
        assert message in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def open_in_browser(page: str, folder: Path) -> str:
    """The DOM that Chromium makes of a page, after the pointer has come to the first dot."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        # Where it was installed for this test, a skip would go by unseen.
        if os.environ.get("FASTDUAL_REQUIRE_BROWSER"):
            pytest.fail("Chromium is not installed: apt-get install chromium")
        pytest.skip("Chromium is not installed, so nobody has opened the page")
    hover = (
        "<script>document.querySelector('.dot')"
        ".dispatchEvent(new PointerEvent('pointerover', {bubbles: true}))</script>"
    )
    write_page(folder / "page.html", page.replace("</body>", f"{hover}</body>"))
    (folder / "profile").mkdir()
    address = (folder / "page.html").as_uri()
    done = subprocess.run(
        [browser, *_FLAGS, f"--user-data-dir={folder / 'profile'}", "--dump-dom", address],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def errors_of(dom: str) -> str:
    found = re.search(r'<pre id="errors">(.*?)</pre>', dom, re.S)
    assert found is not None
    return found[1]


def test_page_lives_in_a_browser_without_an_error(page: str, tmp_path: Path) -> None:
    dom = open_in_browser(page, tmp_path)
    assert errors_of(dom) == ""
    assert 'data-ready="yes"' in dom
    tip = re.search(r'<div id="tip"(.*?)</div><div>(\w+)</div><small>', dom, re.S) or re.search(
        r'<div id="tip" style="display: block.*', dom
    )
    assert tip is not None and "strip playing" in dom


def test_browser_test_would_notice_errors_and_the_network(page: str, tmp_path: Path) -> None:
    broken = page.replace('document.body.dataset.ready = "yes";', "missing();")
    broken = broken.replace("<nav>", '<nav><img src="https://example.invalid/x.png">')
    errors = errors_of(open_in_browser(broken, tmp_path))
    assert "missing is not defined" in errors
    assert "refused: https" in errors or "could not be loaded" in errors
