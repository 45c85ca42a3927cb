"""The decoder is chosen for the device, and what it cannot decode is known with a reason."""

import sys
from typing import Any

import pytest

from fastdual.errors import InputError
from fastdual.loaders.batch import nvdec
from fastdual.loaders.batch.decoder import choose_augment, choose_decoder, graph_threads


@pytest.mark.parametrize(
    ("requested", "device", "decoder"),
    [
        ("auto", "cpu", "pyav"),
        ("auto", "cuda", "nvdec"),
        ("pyav", "cuda", "pyav"),
        ("dali-cpu", "cpu", "dali-cpu"),
    ],
)
def test_the_decoder_is_chosen_and_the_reason_told(requested, device, decoder, monkeypatch):
    monkeypatch.setattr(nvdec, "load_library", object)
    choice = choose_decoder(requested, device)
    assert choice.decoder == decoder and choice.reason
    assert ("as asked" in choice.reason) == (requested != "auto")
    assert choice.is_strict == (requested not in ("auto", "pyav"))


@pytest.mark.parametrize(
    ("requested", "device", "message"),
    [
        ("decord", "cpu", "decode is 'decord'; choose one of auto, nvdec, dali-cpu, pyav"),
        ("nvdec", "cpu", "needs a CUDA device"),
        ("dali-cpu", "cuda", "runs on a CPU"),
    ],
)
def test_a_decoder_that_the_device_lacks_is_refused(requested, device, message):
    with pytest.raises(InputError, match=message):
        choose_decoder(requested, device)


def test_without_nvdec_auto_says_why_and_nvdec_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvdec, "load_library", no_library)
    choice = choose_decoder("auto", "cuda")
    assert choice.decoder == "pyav" and "NVIDIA_DRIVER_CAPABILITIES" in choice.reason
    with pytest.raises(InputError, match=r"nvdec cannot be used: libnvcuvid.*; or use auto"):
        choose_decoder("nvdec", "cuda")


def no_library() -> None:
    raise OSError


def test_threads_are_those_of_this_process() -> None:
    assert graph_threads("nvdec", 2) == 16 and graph_threads("nvdec", 64) == 32
    assert graph_threads("pyav", 64) == graph_threads("dali-cpu", 3) == 1


@pytest.mark.parametrize(("requested", "device"), [("dali-cpu", "cpu"), ("auto", "cuda")])
def test_what_needs_dali_says_so_without_it(
    requested: Any, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nvidia", None)
    monkeypatch.delitem(sys.modules, "nvidia.dali", raising=False)
    with pytest.raises(InputError, match=r'needs DALI.*pip install "\.\[gpu\]"'):
        choose_decoder(requested, device)
    assert choose_decoder("auto", "cpu").decoder == "pyav"
    assert choose_decoder("pyav", "cuda", "triton").decoder == "pyav"


@pytest.mark.parametrize(
    ("requested", "device", "decoder", "message"),
    [
        ("numpy", "cpu", "pyav", "augment is 'numpy'; choose one of auto, dali, triton"),
        ("dali", "cpu", "pyav", "on a CPU, PyAV's workers augment; use auto"),
        ("triton", "cpu", "pyav", "on a CPU, PyAV's workers augment; use auto"),
        ("triton", "cpu", "dali-cpu", "augment triton needs a CUDA device, not 'cpu'"),
    ],
)
def test_who_augments_is_refused_where_it_cannot(
    requested: Any, device: str, decoder: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(InputError, match=message):
        choose_augment(requested, device, decoder)


def test_who_augments_is_dali_unless_triton_is_asked_for() -> None:
    assert choose_augment("auto", "cuda", "nvdec") == "dali"
    assert choose_augment("dali", "cpu", "dali-cpu") == "dali"
    assert choose_augment("triton", "cuda", "pyav") == "triton"
