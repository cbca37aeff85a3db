"""What execution providers are told, in which order they are tried, and which GPU a worker takes."""

from __future__ import annotations

import logging
from pathlib import Path

import onnx_models
import onnxruntime
import pytest

from processors import _cuda, _runtime
from processors._contract import Contract, Tensor
from processors._cuda import GpuFacts
from processors._hardware import device_for, idle_gpu, left_on_cpu
from processors._models import Registry
from processors._provider_options import (
    CUDA,
    TENSORRT,
    EngineCache,
    Gpu,
    Profile,
    attempts,
    engine_folder,
    shape_profile,
)
from processors._session import Session
from processors._warmup import largest_measured
from streams.loading import open_domain
from streams.settings import SettingsError, load_settings

CPU = "CPUExecutionProvider"
ALL = (TENSORRT, CUDA, CPU)
CACHE = EngineCache(Path("/cache/engines"), Path("/cache"))
PROFILE = Profile("x:1x3", "x:8x3", "x:64x3")


def rows(*shape: int | str, name: str = "x") -> Contract:
    """A contract of one input of this shape."""
    return Contract((Tensor(name, "float32", shape),), (Tensor("y", "float32", ("batch",)),))


class OneGpu:
    """Stands in for the driver of a machine with one GPU."""

    def count(self) -> int:
        return 1

    def gpus(self) -> tuple[GpuFacts, ...]:
        return (GpuFacts("NVIDIA Toy 9", "9.0", 1 << 30),)

    def version(self) -> str:
        return "13.0"


# Attempts


def test_less_is_asked_for_before_the_next_provider_is_tried() -> None:
    """TensorRT without its profile, and CUDA without its graphs, come before what is wanted less."""
    tried = attempts(ALL, Gpu(cuda_graphs=True), CACHE, PROFILE)

    assert [
        (TENSORRT, True, False),
        (TENSORRT, False, False),
        (CUDA, False, True),
        (CUDA, False, False),
        (CPU, False, False),
    ] == [
        (attempt.first, "trt_profile_min_shapes" in attempt.providers[0][1], attempt.cuda_graphs) for attempt in tried
    ]
    assert [[TENSORRT, CUDA, CPU]] * 2 + [[CUDA, CPU]] * 2 + [[CPU]] == [
        [name for name, _ in attempt.providers] for attempt in tried
    ]


def test_graphs_are_cuda_s_alone_and_only_where_it_comes_first() -> None:
    """TensorRT's provider keeps one graph whatever its id; beside it, CUDA may not record either."""
    told = [
        (attempt.first, name, options.get("enable_cuda_graph"))
        for attempt in attempts(ALL, Gpu(cuda_graphs=True))
        for name, options in attempt.providers
        if "enable_cuda_graph" in options or "trt_cuda_graph_enable" in options
    ]

    assert [(CUDA, CUDA, "1")] == told


def test_options_carry_what_the_settings_say() -> None:
    """Device, memory and growth of the arena for CUDA; device, half precision and caches for TensorRT."""
    (tensorrt, cuda, cpu), *_ = [
        attempt.providers for attempt in attempts(ALL, Gpu(1, 512, "doubling", "float16"), CACHE)
    ]

    assert {
        "device_id": "1",
        "gpu_mem_limit": str(512 * 1024 * 1024),
        "arena_extend_strategy": "kNextPowerOfTwo",
        "use_tf32": "1",
    } == cuda[1]
    assert {
        "device_id": "1",
        "trt_fp16_enable": "1",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": "/cache/engines",
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": "/cache",
    } == tensorrt[1]
    assert {} == cpu[1]


def test_nothing_is_said_that_was_not_asked_for() -> None:
    """By default there is no limit, no cache and full precision; memory grows by what is asked for."""
    (tensorrt, cuda, _), *_ = [attempt.providers for attempt in attempts(ALL, Gpu())]

    assert {"device_id": "0", "arena_extend_strategy": "kSameAsRequested", "use_tf32": "0"} == cuda[1]
    assert {"device_id": "0"} == tensorrt[1]


# Shapes and caches


def test_shapes_go_from_one_row_to_the_largest_slice() -> None:
    """Every input that counts rows is named; one that goes whole to every run has one shape anyway."""
    contract = Contract(
        (
            Tensor("x", "float32", ("batch", 18)),
            Tensor("picture", "float32", ("batch", 3, 8, 8)),
            Tensor("rate", "int64", ()),
        ),
        (Tensor("y", "float32", ("batch",)),),
    )

    expected = Profile("x:1x18,picture:1x3x8x8", "x:256x18,picture:256x3x8x8", "x:4096x18,picture:4096x3x8x8")
    assert expected == shape_profile(contract, 256, 4096)
    assert Profile("x:1x3", "x:64x3", "x:64x3") == shape_profile(rows("batch", 3), 256, 64)


def test_free_axes_leave_the_shapes_to_tensorrt() -> None:
    """A length of sequences that nobody bounded cannot be promised."""
    assert shape_profile(rows("batch", "seq"), 256, 4096) is None


def test_largest_slice_that_is_measured_stays_within_memory() -> None:
    """Pictures end at fewer rows than a handful of features."""
    assert 4096 == largest_measured(rows("batch", 18))
    assert 128 == largest_measured(rows("batch", 3, 256, 256))
    assert 1 == largest_measured(rows("batch", 3, 8192, 8192))


def test_engines_of_two_models_versions_or_gpus_do_not_meet(tmp_path: Path) -> None:
    """Timings are shared between the models of one kind of GPU, engines by none."""
    versions = ("ort1.31.1", "trt10.9.0", "cuda13.0")
    first = engine_folder(tmp_path, "a1", versions, "NVIDIA H100 80GB HBM3 9.0")
    others = [
        engine_folder(tmp_path, "b2", versions, "NVIDIA H100 80GB HBM3 9.0"),
        engine_folder(tmp_path, "a1", ("ort1.32.0", *versions[1:]), "NVIDIA H100 80GB HBM3 9.0"),
        engine_folder(tmp_path, "a1", versions, "NVIDIA L4 8.9"),
    ]

    assert first.engines not in [other.engines for other in others]
    assert first.timings == others[0].timings
    assert "ort1.31.1-trt10.9.0-cuda13.0-NVIDIA_H100_80GB_HBM3_9.0" == first.timings.name


def test_engines_lie_below_the_cache_of_the_machine_that_built_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The folder is there before TensorRT looks; where it cannot be, engines are built each time, with a warning."""
    monkeypatch.setattr(_cuda, "driver", OneGpu)
    cache = _runtime._engine_cache(tmp_path, b"model", 0, logging.getLogger("test"))
    assert cache is not None
    assert cache.engines.is_dir()
    assert "NVIDIA_Toy_9_9.0" in cache.timings.name

    (tmp_path / "file").write_text("")
    assert _runtime._engine_cache(tmp_path / "file", b"model", 0, logging.getLogger("test")) is None
    assert any("builds its engines at each start" in record.getMessage() for record in caplog.records)


def test_one_process_builds_engines_and_the_others_wait(tmp_path: Path) -> None:
    """Two workers that start together would else build the same engine twice, and read one half written."""
    import fcntl

    cache = EngineCache(tmp_path, tmp_path)
    with _runtime._engines_of_one(cache), (tmp_path / "lock").open("w") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with (tmp_path / "lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


# What runs where


@pytest.mark.parametrize(
    ("operators", "idle"),
    [
        ({CPU: ["ai.onnx.ml.TreeEnsembleRegressor"], CUDA: ["Mul", "Add", "Sigmoid"]}, True),
        ({CPU: ["ai.onnx.ml.LabelEncoder", "Shape"], CUDA: ["Gather", "com.microsoft.FusedMatMul"]}, False),
        ({CPU: ["Shape"], CUDA: ["Mul"]}, False),
        ({CPU: ["ai.onnx.ml.Scaler"], TENSORRT: ["TRTKernel_graph_1"]}, False),
        ({CPU: ["ai.onnx.ml.TreeEnsembleRegressor", "Mul"]}, False),
    ],
)
def test_gpu_that_only_gets_the_sum_of_a_tree_ensemble_is_left_alone(
    operators: dict[str, list[str]], idle: bool
) -> None:
    """Trees run on CPUs; a sigmoid behind them is no reason to copy to a GPU and back."""
    assert idle == ("its work is TreeEnsembleRegressor, which runs on CPUs only" == idle_gpu(operators))
    assert idle or "" == idle_gpu(operators)


def test_model_of_the_repository_knows_its_operators() -> None:
    """The operators come with their domain, so that trees are known as such."""
    session = Session.open(Registry().resolve("fraud"), providers=(CPU,), threads=1, slice=1)
    operators = _runtime.operators(session._runtime)

    assert "ai.onnx.ml.TreeEnsembleRegressor" in operators[CPU]
    assert idle_gpu({CPU: operators[CPU][:1], CUDA: operators[CPU][1:]})


def test_operators_beside_the_gpu_are_told_but_not_those_of_shapes() -> None:
    """What a person can do something about is named with its number."""
    assert "NonMaxSuppression 1, TopK 2" == left_on_cpu(
        {CPU: ["TopK", "Shape", "NonMaxSuppression", "TopK", "Unsqueeze"], CUDA: ["Conv"]}
    )
    assert "" == left_on_cpu({CPU: ["TopK", "Conv"]})
    assert "" == left_on_cpu({CPU: ["Shape"], CUDA: ["Conv"]})


# Devices


@pytest.mark.parametrize(
    ("wanted", "slot", "gpus", "expected"),
    [
        ("auto", "0", 4, 0),
        ("auto", "5", 4, 1),
        ("auto", "node-a-3", 4, 3),
        ("auto", "blue", 4, 0),
        ("auto", "7", 0, 0),
        (2, "7", 4, 2),
    ],
)
def test_workers_of_a_machine_take_gpus_in_turn(wanted: int, slot: str, gpus: int, expected: int) -> None:
    """By the number at the end of the slot, unless one is named."""
    assert expected == device_for(wanted, slot, gpus)  # type: ignore[arg-type]  # a Literal or a number


def test_device_is_a_number_or_auto() -> None:
    """In the file and in the environment; anything else is refused with its key."""
    assert "auto" == load_settings(None, {}).settings.model.device_id
    assert 3 == load_settings(None, {"HEADRACE_MODEL__DEVICE_ID": "3"}).settings.model.device_id
    with pytest.raises(SettingsError, match=r"model\.device_id"):
        load_settings(None, {"HEADRACE_MODEL__DEVICE_ID": "first"})


def test_settings_of_the_gpu_do_not_disturb_a_machine_without_one(tmp_path: Path) -> None:
    """The same configuration runs on a laptop: nothing of it is used there."""
    wanted = {
        "cuda_graphs": "true",
        "overlap": "true",
        "precision": "float16",
        "gpu_memory_mb": "512",
        "device_id": "3",
    }
    settings = load_settings(
        None, {}, {f"model.{key}": value for key, value in wanted.items()} | {"data": str(tmp_path)}
    )
    opened = open_domain(settings.settings, "fraud", slot="a-1")

    assert "CPUExecutionProvider" == opened.session.providers[0] or _cuda.driver() is not None


@pytest.mark.skipif("CUDAExecutionProvider" not in onnxruntime.get_available_providers(), reason="no onnxruntime-gpu")
@pytest.mark.skipif(_cuda.driver() is not None, reason="this machine has a GPU")
def test_gpu_build_without_a_gpu_falls_back_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`onnxruntime-gpu` on a machine without a driver runs on the CPU, and each provider's reason is logged."""
    _runtime._said.clear()
    caplog.set_level(logging.INFO)
    session = Session.open(onnx_models.doubling(tmp_path / "doubling.onnx"), providers=ALL, gpu=Gpu(cuda_graphs=True))

    assert (CPU,) == session.providers
    reasons = [record.getMessage() for record in caplog.records if "wanted" in record.getMessage()]
    assert 2 == len(reasons)
    assert all("cannot open shared object file" in why or "shows no GPU" in why or "install" in why for why in reasons)
