"""`scripts/gpu_check.py`: what it says without a GPU, and its dry run, in which the CPU stands in for one."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from processors import _cuda
from processors._runtime import DeviceMemory
from processors._session import Session
from scripts import gpu_check
from scripts.gpu import measure, ways
from scripts.gpu.cases import cases
from scripts.gpu.ways import CONTENDERS, Contender, Place

ROOT = Path(__file__).parents[1]
WITHOUT_GPU = pytest.mark.skipif(not gpu_check.why_no_gpu(0), reason="this machine has a GPU")


class Deaf(DeviceMemory):
    """Memory from which results come back as zeros."""

    def get(self, value: Any, array: np.ndarray) -> None:
        array[...] = 0


@pytest.fixture(scope="module")
def dry(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, Any], str]:
    """Exit code, JSON and Markdown of a dry run of everything."""
    out = tmp_path_factory.mktemp("report")
    code = gpu_check.main(["--cpu-only", "--out", str(out)])
    return code, json.loads((out / "gpu-check.json").read_text()), (out / "gpu-check.md").read_text()


@WITHOUT_GPU
def test_without_a_gpu_it_says_so_with_a_code_of_its_own(tmp_path: Path) -> None:
    """Neither a failure nor a success: exit code 3, what is missing, and no report."""
    done = subprocess.run(
        [sys.executable, "scripts/gpu_check.py", "--out", str(tmp_path / "report")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )

    assert (3, "") == (done.returncode, done.stdout)
    assert done.stderr.startswith("no GPU here: ")
    assert "--cpu-only" in done.stderr
    assert not (tmp_path / "report").exists()


@pytest.mark.slow
def test_dry_run_takes_every_model_every_way(dry: tuple[int, dict[str, Any], str]) -> None:
    """The models of the repository, found by their manifests, and each made kind, in each way that a CPU can take."""
    code, report, _ = dry
    found = {(finding["model"], finding["way"]): finding for finding in report["findings"]}
    models = {name for name, _ in found}

    assert 0 == code
    assert {"trees", "mlp", "cnn", "recurrent", "transformer", "gru"} < models
    assert any(name.startswith("fraud@") for name in models)
    assert len(models) * len(CONTENDERS) == len(found)
    assert set() == {finding["status"] for finding in found.values()} - {"ok", "skipped"}
    for contender in CONTENDERS:
        ran = [found[model, contender.name]["status"] == "ok" for model in models]
        assert any(ran) == (contender.provider == "CUDAExecutionProvider")


@pytest.mark.slow
def test_dry_run_walks_the_paths_of_a_gpu(dry: tuple[int, dict[str, Any], str]) -> None:
    """Bound memory, graphs and overlapped copies are really used, not only asked for."""
    used = {finding["way"]: finding["used"] for finding in dry[1]["findings"] if finding["model"] == "gru"}

    assert {
        "cuda": "bound memory",
        "cuda, overlap": "overlapped copies",
        "cuda, graphs": "CUDA graphs",
        "cuda, graphs, overlap": "CUDA graphs and overlapped copies",
    } == {way: used[way] for way in ("cuda", "cuda, overlap", "cuda, graphs", "cuda, graphs, overlap")}


@pytest.mark.slow
def test_report_says_that_it_is_of_no_gpu(dry: tuple[int, dict[str, Any], str]) -> None:
    """Nobody takes the figures of a dry run for those of a GPU."""
    _, report, text = dry

    assert report["dry"]
    assert "" == report["machine"]["gpu"]
    assert text.startswith("# Dry run: the CPU stood in for a GPU\n")
    assert "Nothing here says how fast a GPU is." in text
    assert [8, 64] == [speed["rows"] for speed in report["findings"][0]["speeds"][1:]]
    assert all(speed["session_ms"] > 0 for finding in report["findings"] for speed in finding["speeds"])


def test_wrong_outputs_fail_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that gives something else is found, named and told by the exit code."""
    monkeypatch.setattr(ways, "DeviceMemory", Deaf)
    code = gpu_check.main(["--cpu-only", "--out", str(tmp_path), "mlp"])
    report = json.loads((tmp_path / "gpu-check.json").read_text())
    failed = [finding for finding in report["findings"] if finding["status"] == "failed"]

    assert 1 == code
    assert ["cuda", "cuda, tf32", "cuda, overlap", "cuda, graphs", "cuda, graphs, overlap", "cuda, half"] == [
        finding["way"] for finding in failed
    ]
    assert all("bound memory was not used" in finding["why"] for finding in failed)
    assert "## Failed" in (tmp_path / "gpu-check.md").read_text()


def test_outputs_beyond_the_tolerance_are_told_apart(tmp_path: Path) -> None:
    """What differs from the CPU by more than a way may is a failure; half precision may more than float32."""
    (case,) = cases(tmp_path, None, ["mlp"])
    cpu = ways.open_cpu(case, 16)
    half = ways.open_contender(case, Contender("half", half=True), Place(0, tmp_path, dry=True), 16).session

    found, wrong = measure._compared(half, cpu, 2e-2)
    assert (True, "") == (0 < found["y"] < 1e-2, wrong)
    assert "from the CPU's, more than 1e-06" in measure._compared(half, cpu, 1e-6)[1]
    assert CONTENDERS[0].tolerance < Contender("half", half=True).tolerance


def test_rows_that_depend_on_their_neighbours_are_found(tmp_path: Path) -> None:
    """Outputs that are right in one order of the rows and not in another are no pass."""
    (case,) = cases(tmp_path, None, ["mlp"])
    cpu = ways.open_cpu(case, 16)

    class Ordered(Session):
        calls = 0

        def run(self, inputs: Any) -> Any:
            outputs, failed = super().run(inputs)
            self.calls += 1
            return ({name: np.roll(a, 1, 0) for name, a in outputs.items()} if self.calls == 2 else outputs), failed

    other = Ordered(cpu._runtime, cpu.contract, slice_size=16)
    assert "depends on its neighbours" in measure._compared(other, cpu, 1e-3)[1]


def test_it_needs_little_of_the_machine_that_it_is_sent_to() -> None:
    """Neither Kafka nor the store nor anything of streams: what it imports is named in its head."""
    code = (
        "import sys; sys.argv = ['x']; sys.path.insert(0, '.'); import scripts.gpu_check;"
        "print(*sorted({m.split('.')[0] for m in sys.modules} - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    strangers = set(done.stdout.split()) - {"processors", "schemas", "scripts", "__main__", "typing_extensions"}

    assert {"msgspec", "numpy", "onnx", "onnxruntime", "platformdirs"} == strangers & {
        "confluent_kafka", "msgspec", "numpy", "onnx", "onnxruntime", "platformdirs", "psutil", "streams",
    }  # fmt: skip
    head = ast.get_docstring(ast.parse((ROOT / "scripts/gpu_check.py").read_text())) or ""
    assert all(name in head for name in ("onnxruntime-gpu[cuda,cudnn]", "onnx", "msgspec", "platformdirs"))


@pytest.mark.skipif(_cuda.driver() is None, reason="no GPU")
@pytest.mark.slow
def test_gpu_passes_its_check(tmp_path: Path) -> None:
    """On a machine with a GPU, every model gives there what it gives on the CPU."""
    assert 0 == gpu_check.main(["--quick", "--out", str(tmp_path)])
