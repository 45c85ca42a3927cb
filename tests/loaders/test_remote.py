"""Videos in object storage, against a local S3 server: indexed, packed, loaded; and failures."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastdual.errors import FailureError, InputError
from fastdual.loaders import remote
from fastdual.loaders.index import load_index, open_index
from fastdual.loaders.index.sources import list_videos
from fastdual.loaders.loader import ClipLoader
from tests.loaders.clips import encode
from tests.runs import invoke

pytestmark = pytest.mark.needs("av", "h5py")
QUICK = {"frames_per_clip": 4, "frame_stride": 1, "crop_size": 32}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    started = ThreadedMotoServer(port=0, verbose=False)
    started.start()
    host, port = started.get_host_and_port()
    yield f"http://{host}:{port}"
    started.stop()


@pytest.fixture
def bucket(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A bucket with six videos of two classes, and names that must not be followed."""
    import boto3

    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    store = boto3.client("s3")
    name = f"videos-{os.urandom(4).hex()}"
    store.create_bucket(Bucket=name)
    for number in range(6):
        label = ("run", "walk")[number % 2]
        video = encode(tmp_path / "made" / f"{number}.mp4", 10 + number, gop=5, fps=5 + number)
        store.upload_file(str(video), name, f"set/{label}/{number}.mp4")
    store.put_object(Bucket=name, Key="set/notes.txt", Body=b"no video")
    store.put_object(Bucket=name, Key="set/../../escaped.mp4", Body=b"x")
    store.put_object(Bucket=name, Key="other/7.mp4", Body=b"x")
    store.name = name
    return store


def here(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*.mp4")}


@pytest.mark.parametrize(
    ("source", "address"),
    [
        ("s3://bucket/videos/", "s3://bucket/videos"),
        (Path("s3://bucket/videos"), "s3://bucket/videos"),
        ("hf://datasets/user/set", "hf://datasets/user/set"),
        ("GS://b", "gs://b"),
        (Path("videos"), None),
        ("/data/s3:/x", None),
        ("s3:///x", None),
        ("ftp://host/x", None),
    ],
)
def test_an_address_is_told_from_a_path(source: Path | str, address: str | None) -> None:
    assert remote.address_of(source) == address


def test_listing_fetches_nothing_and_follows_no_name_out(bucket: Any) -> None:
    listing = list_videos(Path(f"s3://{bucket.name}/set"))
    assert [entry.path for entry in listing.entries] == [
        "run/0.mp4", "run/2.mp4", "run/4.mp4", "walk/1.mp4", "walk/3.mp4", "walk/5.mp4"
    ]  # fmt: skip
    assert listing.class_names == ("run", "walk") and not here(listing.root)


def test_the_command_indexes_packs_and_the_pack_needs_no_network(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, pack = tmp_path / "x.h5", tmp_path / "packed.h5"
    done = invoke(["index", f"s3://{bucket.name}/set", "-o", str(index), "--workers", "1"])
    assert done.exit_code == 0, done.output
    assert "videos      6 under" in done.stdout and "classes     2" in done.stdout
    done = invoke(["pack", str(index), "-o", str(pack), "--workers", "1"])
    assert done.exit_code == 0, done.output
    bucket.delete_object(Bucket=bucket.name, Key="set/run/0.mp4")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with ClipLoader(pack, batch_size=6, num_workers=1, **QUICK) as loader:
        assert sorted(next(iter(loader)).video_ids.tolist()) == list(range(6))


def test_a_loader_reads_an_address_and_the_cache_stays_within_its_size(bucket: Any) -> None:
    address = f"s3://{bucket.name}/set"
    with ClipLoader(address, batch_size=6, num_workers=1, **QUICK) as loader:
        whole = next(iter(loader))
        root = loader.index.root
        total = int(loader.index.file_bytes.sum())
    assert len(here(root)) == 6
    remote.mount(address, root.parent, limit_bytes=total // 2)
    for path in sorted(root.rglob("*.mp4"))[:3]:
        path.unlink()
    with ClipLoader(open_index(Path(address)), batch_size=6, num_workers=1, **QUICK) as loader:
        again = next(iter(loader))
    assert whole.clips.equal(again.clips)
    sizes = [path.stat().st_size for path in root.rglob("*.mp4")]
    assert 0 < sum(sizes) <= total // 2


def test_an_index_goes_on_where_it_was_stopped(bucket: Any, tmp_path: Path) -> None:
    index = tmp_path / "x.h5"
    words = ["index", f"s3://{bucket.name}/set", "-o", str(index), "--workers", "1"]
    assert invoke(words).exit_code == 0
    root = load_index(index).root
    for path in root.rglob("*.mp4"):
        path.unlink()
    bucket.upload_file(str(tmp_path / "made" / "5.mp4"), bucket.name, "set/run/6.mp4")
    assert invoke(words).exit_code == 0
    assert here(root) == {"6.mp4"}  # what is known and unchanged is not fetched again
    assert len(load_index(index)) == 7


def test_what_is_gone_is_quarantined_by_its_address(bucket: Any) -> None:
    listing = list_videos(Path(f"s3://{bucket.name}/set"))
    bucket.delete_object(Bucket=bucket.name, Key="set/walk/3.mp4")
    with pytest.raises(
        FailureError, match=rf"s3://{bucket.name}/set/walk/3\.mp4 cannot be fetched"
    ):
        remote.fetch(listing.root / "walk" / "3.mp4")
    assert not list(listing.root.rglob("*.partial"))


def test_nothing_there_and_nobody_there_are_one_line_each(
    bucket: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done = invoke(["index", f"s3://{bucket.name}/nothing", "-o", str(tmp_path / "x.h5")])
    assert done.exit_code == 2 and "nothing is there" in done.stderr
    done = invoke(["index", "s3://no-such-bucket-here/x", "-o", str(tmp_path / "x.h5")])
    assert done.exit_code in (1, 2) and len(done.stderr.strip().splitlines()) == 1
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    done = invoke(["index", f"s3://{bucket.name}/set", "-o", str(tmp_path / "x.h5")])
    assert done.exit_code == 1 and "cannot be listed" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(InputError, match=r'gs://b/x: .*pip install ".\[remote\]"'):
        remote.mount("gs://b/x", tmp_path)
