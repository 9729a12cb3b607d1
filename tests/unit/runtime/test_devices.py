import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from made_ports import free_port
from toto.runtime import devices
from toto.runtime.devices import Ranks

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def test_the_device_is_the_one_torch_has() -> None:
    assert devices.device().type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    ("capable", "wanted"),
    [
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
        ({"architecture": "aarch64", "bf16": True}, "bf16"),
        ({"avx512_f": True, "avx512_bf16": False}, "fp32"),
    ],
)
def test_auto_is_bf16_only_where_the_cpu_has_it(
    monkeypatch: pytest.MonkeyPatch, capable: dict[str, object], wanted: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capable)
    assert devices.resolve_precision("auto", CPU) == wanted


def test_auto_reads_this_machine() -> None:
    capable = torch.cpu.get_capabilities()
    native = any(capable.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    assert devices.resolve_precision("auto", CPU) == ("bf16" if native else "fp32")


@pytest.mark.parametrize("wanted", ["fp32", "bf16"])
def test_a_named_precision_stands(wanted: str) -> None:
    assert devices.resolve_precision(wanted, CPU) == wanted


@pytest.mark.parametrize(
    ("wanted", "reason"), [("fp16", "fp16 needs loss scaling"), ("tf32", "unknown")]
)
def test_other_precisions_are_refused(wanted: str, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"'{wanted}': {reason}.*use 'auto', 'bf16' or 'fp32'"):
        devices.resolve_precision(wanted, CPU)


def test_compute_sets_the_type_of_products_only() -> None:
    layer, x = torch.nn.Linear(4, 4), torch.randn(2, 4)
    with devices.compute("bf16", CPU):
        assert layer(x).dtype == torch.bfloat16
    with devices.compute("fp32", CPU):
        assert layer(x).dtype == torch.float32
    assert layer.weight.dtype == torch.float32


def test_alone_there_is_one_rank() -> None:
    assert Ranks.current() == Ranks(rank=0, world=1, local_rank=0)
    with devices.distributed() as ranks:
        assert ranks == Ranks()
        assert not torch.distributed.is_initialized()
    assert Ranks().any(True) is True
    assert Ranks().any(False) is False


def test_ranks_of_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert Ranks.current() == Ranks(rank=5, world=8, local_rank=1)


@pytest.mark.parametrize(("rank", "world"), [(2, 2), (-1, 2), (0, 0)])
def test_a_rank_lies_below_the_world(rank: int, world: int) -> None:
    with pytest.raises(ValueError, match=f"rank {rank} does not lie below a world of {world}"):
        Ranks(rank=rank, world=world)


# One process imports torch and forks the ranks: two imports would be most of the test's time.
TWO_RANKS = """
import os, sys
import torch
from toto.runtime import devices
torch.set_num_threads(1)
children = []
for rank in range(2):
    if (child := os.fork()) == 0:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        with devices.distributed() as ranks:
            total = torch.tensor(ranks.rank + 1)
            torch.distributed.all_reduce(total)
            right = (ranks.world, total.item()) == (2, 3)
            right &= ranks.any(ranks.rank == 1) is True and ranks.any(False) is False
        right &= not torch.distributed.is_initialized()
        os._exit(0 if right else 1)
    children.append(child)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="the two ranks here speak over gloo")
def test_two_ranks_meet_and_part() -> None:
    port = free_port()
    environ = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-c", TWO_RANKS]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_memory_is_what_was_held() -> None:
    with devices.measure() as before:
        pass
    with devices.measure() as cost:
        held = bytearray(b"x") * 2**28
        del held
    # The kernel counts pages in batches.
    assert abs(cost.peak_bytes - before.peak_bytes - 2**28) < 2**24


@pytest.mark.skipif(sys.platform != "linux", reason="the mark is known without it on Linux alone")
def test_memory_of_the_program_before_is_not_counted() -> None:
    held = bytearray(b"x") * 2**30
    program = "from toto.runtime.devices import peak_memory_bytes; print(peak_memory_bytes())"
    told = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert int(told.stdout) < len(held)


def test_children_are_counted_apart() -> None:
    subprocess.run([sys.executable, "-c", "x = bytearray(b'x') * 2**26"], check=True)
    assert 2**26 <= devices.peak_memory_bytes(children=True) < 2**40


def test_measure() -> None:
    with devices.measure() as cost:
        until = time.process_time() + 0.02
        while time.process_time() < until:
            pass
        time.sleep(0.05)
    assert 0.02 <= cost.cpu_s < cost.wall_s
    assert cost.wall_s >= 0.07
    assert cost.peak_bytes == devices.peak_memory_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_sets_the_flag(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with devices.interruptible() as run:
        assert not run.stopped
        signal.raise_signal(number)
        assert run.stopped
        signal.raise_signal(signal.SIGTERM)  # a second one while it saves
        assert run.signal == number
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_stops_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with devices.interruptible():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


WORKER = """
import os, signal, sys, time
from toto.runtime.devices import interruptible
with interruptible() as run:
    if (worker := os.fork()) == 0:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        print("after Ctrl-C", flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
print(code, run.stopped)
"""


def test_a_forked_worker_outlives_ctrl_c_and_ends_by_sigterm() -> None:
    command = [sys.executable, "-c", WORKER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split("\n") == ["after Ctrl-C", f"{-signal.SIGTERM} False", ""]
