"""Every public form of weight file is read to the bit, and nothing that a file asks for is done."""

import contextlib
import hashlib
import io
import marshal
import pickle
import pickletools
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import shape_checks
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dat.errors import CheckpointError
from dat.nn.pickles import OPERATIONS, read_pickle
from dat.nn.torch_files import WRAPPERS
from dat.nn.weights import file_sha256, fitted, load_strictly, read_tensors, read_weights

Golden = Callable[[str], Path]
HONEST = {"encoder.weight": torch.arange(6.0).view(2, 3), "encoder.bias": torch.ones(2)}
MODULE = "planted_module"


def same(read: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return read.keys() == wanted.keys() and all(
        value.dtype == read[key].dtype and value.shape == read[key].shape and torch.equal(_bits(value), _bits(read[key]))
        for key, value in wanted.items()
    )


def _bits(tensor: Tensor) -> Tensor:
    return (
        tensor.detach().contiguous().flatten().view(torch.uint8) if tensor.numel() else tensor.new_zeros(0, dtype=torch.uint8)
    )


def save(content: Any, path: Path, *, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


# What an audit hook hears while a file is read. Such a hook stays for good, so it is silent outside of `heard`.
FORBIDDEN = {
    *("import", "exec", "compile", "code.__new__", "marshal.loads", "pickle.find_class", "ctypes.dlopen"),
    *("os.system", "os.exec", "os.fork", "os.posix_spawn", "subprocess.Popen", "os.mkdir", "os.remove", "os.rename"),
    *("socket.connect", "urllib.Request", "shutil.copyfile", "tempfile.mkstemp"),
}
_record: list[str] | None = None


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _record is not None and (event in FORBIDDEN or (event == "open" and "r" not in str(arguments[1] or "r"))):
        _record.append(f"{event} {arguments}")


sys.addaudithook(_hook)


@contextlib.contextmanager
def heard() -> Iterator[list[str]]:
    global _record  # noqa: PLW0603, as the hook can be given nothing
    _record = events = []
    try:
        yield events
    finally:
        _record = None


# Programs of pickles that make a folder if they are run.


def text(words: str) -> bytes:
    return b"X" + struct.pack("<I", len(words)) + words.encode()


def call(function: str, *arguments: bytes) -> bytes:
    module, _, name = function.rpartition(".")
    return f"c{module}\n{name}\n(".encode() + b"".join(arguments) + b"tR"


def module_os() -> bytes:
    return call("importlib.import_module", text("os"))


def blob(content: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(content)) + content


MKDIR = "__import__('os').mkdir('executed')"
CODE = marshal.dumps(compile(MKDIR, "planted", "eval"))
RUNNABLE = {
    "os.system by REDUCE": call("os.system", text("mkdir executed")),
    "posix.mkdir": call("posix.mkdir", text("executed")),
    "builtins.eval": call("builtins.eval", text(MKDIR)),
    "builtins.exec": call("builtins.exec", text(MKDIR)),
    "names of Python 2": call("__builtin__.eval", text(MKDIR)),
    "subprocess": call("subprocess.check_call", b"]", text("mkdir"), b"a", text("executed"), b"a"),
    "importlib": call("importlib.import_module", text(MODULE)),
    "a global whose import runs": f"c{MODULE}\nanything\n".encode(),
    "a global named on the stack": text(MODULE) + text("anything") + b"\x93",
    "in the key of a dictionary": b"}" + call("os.system", text("mkdir executed")) + b"Ns",
    "getattr": call("builtins.getattr", module_os(), text("mkdir")) + b"(" + text("executed") + b"tR",
    "attrgetter": call("operator.attrgetter", text("mkdir")) + b"(" + module_os() + b"tR(" + text("executed") + b"tR",
    "methodcaller": call("operator.methodcaller", text("mkdir"), text("executed")) + b"(" + module_os() + b"tR",
    "__setstate__": call("functools.partial", b"cos\ngetcwd\n") + b"(cos\nmkdir\n" + text("executed") + b"\x85}Ntb)R",
    "INST": b"(" + text("mkdir executed") + b"ios\nsystem\n",
    "OBJ": b"(cos\nsystem\n" + text("mkdir executed") + b"o",
    "NEWOBJ": b"cbuiltins\nlist\ncbuiltins\nmap\n(cos\nmkdir\n(" + text("executed") + b"lt\x81\x85R",
    "runpy": call("runpy.run_path", text(f"{MODULE}.py")),
    "torch._utils": call("torch._utils._import_dotted_name", text(f"{MODULE}.anything")),
    "torch.hub": call("torch.hub.load_state_dict_from_url", text("file:///nowhere/x.pt"), text("executed")),
    "code as cloudpickle ships it": call("types.FunctionType", call("marshal.loads", blob(CODE)), b"}") + b")R",
}


def plant(program: bytes, form: str, path: Path) -> Path:
    """A file of honest tensors in whose pickle another program runs first; as "bare", that program alone."""
    if form == "bare":
        path.write_bytes(b"\x80\x02" + program + b".")
        return path
    save({"state_dict": HONEST}, path, zipped=form == "zip")
    if form == "old":
        path.write_bytes(b"\x80\x02" + program + b"0" + path.read_bytes()[2:])
        return path
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    pickled = f"{path.stem}/data.pkl"
    return rewrite(path, {**members, pickled: b"\x80\x02" + program + b"0" + members[pickled][2:]})


def rewrite(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, with a module that leaves a trace when it is imported or run."""
    shape_checks.make_now("dat.nn")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"{MODULE}.py").write_text(f"{MKDIR}\nanything = None\n")
    for zipped in (True, False):
        read_tensors(save(HONEST, tmp_path / "first.pt", zipped=zipped))  # whatever is imported at its first use
    read_tensors(rewrite(tmp_path / "first.pt", {"a/data.pkl": program(FLOATS, FOUR), "a/data/0": bytes(16)}))
    (tmp_path / "first.pt").unlink()
    yield tmp_path
    sys.modules.pop(MODULE, None)


def test_at_least_ten_kinds_of_attack_are_planted() -> None:
    assert len(RUNNABLE) >= 20
    assert len(set(RUNNABLE.values())) == len(RUNNABLE)


@pytest.mark.parametrize("kind", RUNNABLE)
@pytest.mark.parametrize("form", ["zip", "old", "bare"])
def test_planted_programs_do_not_run(trap: Path, kind: str, form: str) -> None:
    path = plant(RUNNABLE[kind], form, trap / "evil.pt")
    before = sorted(trap.iterdir())
    with heard() as events:
        if form == "bare":
            with pytest.raises(CheckpointError, match=r"evil\.pt \(\d+ bytes\) is damaged"):
                read_tensors(path)
        else:
            assert same(read_tensors(path)[0], HONEST)
    assert (events, sorted(trap.iterdir()), MODULE in sys.modules) == ([], before, False)


@pytest.mark.parametrize("kind", RUNNABLE)
def test_the_planted_programs_would_run(trap: Path, kind: str) -> None:
    with contextlib.suppress(Exception):
        pickle.loads(b"\x80\x02" + RUNNABLE[kind] + b".")
    assert (trap / "executed").is_dir()


def program(
    kind: bytes, count: bytes, *, offset: bytes = b"K\x00", size: bytes = b"K\x04\x85", stride: bytes = b"K\x01\x85"
) -> bytes:
    """A pickle of one tensor on the storage `0`, of given class and count."""
    storage = b"(" + text("storage") + kind + text("0") + text("cpu") + count + b"tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + offset + size + stride + b"\x89}tR"
    return b"\x80\x02}" + text("weight") + tensor + b"s."


FLOATS, FOUR, HUGE = b"ctorch\nFloatStorage\n", b"K\x04", b"\x8a\x06" + (2**40).to_bytes(6, "little")
LYING = {
    "a storage larger than its bytes": (program(FLOATS, HUGE), "16 bytes instead of"),
    "a storage smaller than its bytes": (program(FLOATS, b"K\x02"), "on the 2 values"),
    "more values than are stored": (program(FLOATS, FOUR, size=HUGE + b"\x85", stride=b"K\x00\x85"), "on the 4 values"),
    "values behind the end": (program(FLOATS, FOUR, offset=b"K\x02"), "damaged"),
    "a negative offset": (program(FLOATS, FOUR, offset=b"J\xff\xff\xff\xff"), "no possible size"),
    "a size of words": (program(FLOATS, FOUR, size=text("four") + b"\x85"), "no possible size"),
    "a size of many dimensions": (program(FLOATS, FOUR, size=b"(" + b"K\x01" * 200 + b"t"), "no possible size"),
    "a storage of a foreign class": (program(b"cos\nsystem\n", FOUR), "not known here"),
    "a storage that is no tuple": (program(FLOATS, FOUR).replace(b"tQ", b"l\x85Q"), "not known here"),
    "a storage outside of the archive": (program(FLOATS, FOUR).replace(text("0"), text("../../secret")), "damaged"),
}


@pytest.mark.parametrize("kind", LYING)
def test_lies_about_storages_are_one_sentence(trap: Path, kind: str) -> None:
    pickled, said = LYING[kind]
    (trap / "secret").write_bytes(bytes(16))
    path = rewrite(trap / "evil.pt", {"b/data.pkl": pickled, "b/data/0": bytes(16)})
    with heard() as events, pytest.raises(CheckpointError, match=said):
        read_tensors(path)
    assert not events


LAUGHS = b"N" + b"2\x86" * 30_000
NESTED = b"N" + b"\x85" * 30_000
BOMBS = {
    "an index that fills memory": b"Nr\xff\xff\xff\xff",
    "a billion laughs": LAUGHS,
    "a billion laughs as a key": b"}" + LAUGHS + b"Ns",
    "nested deeper than the stack": NESTED,
    "a key nested deeper than the stack": b"}" + NESTED + b"Ns",
    "a word longer than the file": b"\x8d" + (2**40).to_bytes(8, "little") + b"a",
    "bytes longer than the file": b"\x96" + (2**40).to_bytes(8, "little") + b"a",
    "a number of a million digits": b"I" + b"9" * 1_000_000 + b"\n",
    "an empty stack": b"0" * 9,
    "no mark": b"t",
    "what was never stored": b"h\x07",
    "buffers outside of the file": b"\x97",
    "an extension": b"\x82\x01",
}


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.parametrize("form", ["zip", "old"])
def test_bombs_do_not_go_off(trap: Path, kind: str, form: str) -> None:
    path = plant(BOMBS[kind], form, trap / "bomb.pt")
    try:
        assert same(read_tensors(path)[0], HONEST)
    except CheckpointError as error:
        assert len(str(error)) < 500  # noqa: PT017, as either outcome is right


def test_modules_that_are_shared_without_end_are_refused(tmp_path: Path) -> None:
    shared = nn.Sequential(nn.Linear(1, 1))
    for _ in range(60):
        shared = nn.Sequential(shared, shared)
    with pytest.raises(CheckpointError, match="more than 10000 modules"):
        read_tensors(save(shared, tmp_path / "shared.pt"))
    endless = nn.Sequential(nn.Linear(1, 1))
    endless._modules["itself"] = endless
    with pytest.raises(CheckpointError, match="more than 10000 modules"):
        read_tensors(save(endless, tmp_path / "endless.pt"))


def test_archives_that_are_not_torchs_are_refused(trap: Path) -> None:
    bomb = rewrite(trap / "bomb.pt", {"b/data.pkl": bytes(10_000_000)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="larger than the file"):
        read_tensors(bomb)
    two = rewrite(trap / "two.pt", {"a/data.pkl": b"N.", "b/data.pkl": b"N."})
    with pytest.raises(CheckpointError, match=r"2 of the data\.pkl"):
        read_tensors(two)
    outside = rewrite(
        trap / "outside.pt", {"../data.pkl": program(FLOATS, FOUR), "../data/0": bytes(16), "/x": b"", "../y": b""}
    )
    with heard() as events:
        assert same(read_tensors(outside)[0], {"weight": torch.zeros(4)})
    assert not events
    big = rewrite(trap / "big.pt", {"a/data.pkl": program(FLOATS, FOUR), "a/data/0": bytes(16), "a/byteorder": b"big"})
    with pytest.raises(CheckpointError, match="byte order"):
        read_tensors(big)


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,1099511627776]}}',
        b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,16]}}',
        b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[-16,0]}}',
        b'{"a":{"dtype":"os.system","shape":[4],"data_offsets":[0,16]}}',
    ],
)
def test_lying_safetensors_are_one_sentence(tmp_path: Path, header: bytes) -> None:
    for length in (len(header), 2**40):
        path = tmp_path / "lying.safetensors"
        path.write_bytes(length.to_bytes(8, "little") + header + bytes(16))
        with heard() as events, pytest.raises(CheckpointError, match=r"lying\.safetensors \(\d+ bytes\) is damaged"):
            read_tensors(path)
        assert not events


def test_a_module_named_in_metadata_is_a_word(trap: Path) -> None:
    metadata = {"target": f"{MODULE}.anything", "config": '{"target": "os.system"}'}
    safetensors.torch.save_file(HONEST, trap / "q.safetensors", metadata)
    with heard() as events:
        read, words = read_tensors(trap / "q.safetensors")
    assert same(read, HONEST)
    assert (words, events, MODULE in sys.modules) == (metadata, [], False)


# Honest files.


@pytest.mark.shared
def test_a_checkpoint_with_foreign_objects_gives_its_tensors(golden: Golden) -> None:
    folder = golden("lightning_foreign_ckpt")
    with heard() as events:
        read, metadata = read_tensors(folder / "foreign.ckpt")
    assert same(read, load_file(folder / "expected.safetensors"))
    assert (metadata, events) == ({}, [])


@pytest.mark.shared
def test_files_of_python_2_are_read(shared_data: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(shared_data / "weights.zip") as pack:
        files = [Path(pack.extract(name, tmp_path)) for name in pack.namelist() if name.endswith((".pth", ".th"))]
    assert len(files) == 5
    for file in files:
        content = torch.load(file, map_location="cpu", weights_only=True)
        assert same(read_tensors(file)[0], content.get("state_dict", content))


def every_kind() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    raw = torch.randint(0, 256, (64,), dtype=torch.uint8, generator=generator)
    names = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "complex64", "complex128"]
    names += ["uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"]
    tensors = {name: raw.clone().view(getattr(torch, name)) for name in names}
    base = torch.randn(4, 6, generator=generator)
    tensors |= {"bool": base > 0, "scalar": torch.tensor(3.5), "empty": torch.empty(0, 3), "whole": base}
    tensors |= {"part": base[1:3, ::2], "turned": base.T, "parameter": nn.Parameter(base[0].clone()), "buffer": nn.Buffer(base)}
    return tensors


@pytest.mark.parametrize("zipped", [True, False])
def test_every_kind_of_tensor_is_equal_to_the_bit(tmp_path: Path, zipped: bool) -> None:
    tensors = every_kind()
    read = read_tensors(save(tensors, tmp_path / "all.pt", zipped=zipped))[0]
    assert same(read, tensors)
    assert read["part"].stride() == tensors["part"].stride()
    assert read["whole"].data_ptr() == read["turned"].data_ptr()
    assert not any(value.requires_grad for value in read.values())
    for value in read.values():
        value.copy_(value.clone())  # may be written to


def test_lazily_negated_tensors_are_refused(tmp_path: Path) -> None:
    conjugated = torch.zeros(2, dtype=torch.complex64).conj()
    with pytest.raises(CheckpointError, match="conjugated"):
        read_tensors(save({"a": conjugated}, tmp_path / "a.pt"))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapper", [None, *WRAPPERS])
def test_tensors_are_found_where_files_keep_them(tmp_path: Path, wrapper: str | None, zipped: bool) -> None:
    beside = {"epoch": 3, "optimizer": {"state": {0: {"step": torch.ones(1)}}}, "note": [torch.ones(1)]}
    inner = OrderedDict({**HONEST, "version": "1.0", "extra_state": None})
    content = {**beside, **inner} if wrapper is None else {**beside, wrapper: inner}
    assert same(read_tensors(save(content, tmp_path / "w.pt", zipped=zipped))[0], HONEST)


def test_of_several_places_the_first_is_taken(tmp_path: Path) -> None:
    others = {key: torch.zeros(1) for key in HONEST}
    content = {"lr": torch.ones(1), "ema": others, "model": HONEST, "generator": others, "state_dict": {"none": 1}}
    assert same(read_tensors(save(content, tmp_path / "w.pt"))[0], HONEST)


@pytest.mark.parametrize(("raw", "average"), [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("model", "ema")])
def test_of_raw_and_averaged_weights_the_average_is_taken_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], raw: str, average: str
) -> None:
    others = {key: torch.zeros(1) for key in HONEST}
    path = save({raw: others, average: HONEST}, tmp_path / "w.pt")
    tensors, which = read_weights(path)
    assert same(tensors, HONEST)
    assert which == average
    assert f"keeps an average of the weights, {average}, which is taken" in capsys.readouterr().err
    tensors, which = read_weights(f"{path}#{raw}")
    assert same(tensors, others)
    assert which == raw
    assert capsys.readouterr().err == ""
    with pytest.raises(CheckpointError, match=rf"no tensors under 'nothing'; write one of {raw}, {average}"):
        read_weights(f"{path}#nothing")


def test_without_an_average_nothing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path := tmp_path / "w#1.pt").write_bytes(save({"model": HONEST, "ema": 0.99}, tmp_path / "w.pt").read_bytes())
    assert same(read_weights(path)[0], HONEST)
    assert read_weights(path)[1] == ""
    assert capsys.readouterr().err == ""
    safetensors.torch.save_file(HONEST, tmp_path / "w.safetensors")
    assert same(read_weights(tmp_path / "w.safetensors")[0], HONEST)
    with pytest.raises(CheckpointError, match="leave out #ema"):
        read_weights(f"{tmp_path / 'w.safetensors'}#ema")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "network.", "module._orig_mod.", "model."])
def test_tensors_of_other_names_and_precisions_are_fitted(prefix: str) -> None:
    network = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 1), norm=nn.BatchNorm2d(4)))
    network(torch.rand(2, 3, 2, 2))
    own = {key: value.clone() for key, value in network.state_dict().items()}
    given = {prefix + key: value.bfloat16() for key, value in own.items() if not key.endswith("num_batches_tracked")}
    load_strictly(network, fitted(network, {**given, "n_averaged": torch.tensor(3)}), name="w")
    assert {key: value.dtype for key, value in network.state_dict().items()} == {key: v.dtype for key, v in own.items()}
    assert torch.equal(network.state_dict()["conv.weight"], own["conv.weight"].bfloat16().float())
    assert network.state_dict()["norm.num_batches_tracked"] == 0


def test_where_there_are_no_tensors_a_sentence_says_so(tmp_path: Path) -> None:
    for content in ([torch.ones(1)], torch.ones(1), {}, {"model": {"a": 1}}, "words"):
        with pytest.raises(CheckpointError, match=r"no dictionary of tensors, neither at its top nor under 'state_dict'"):
            read_tensors(save(content, tmp_path / "w.pt"))


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(2, 2))
        self.absent = nn.Parameter()
        self.register_parameter("absent", None)
        self.register_buffer("kept", torch.randn(3))
        self.register_buffer("passing", torch.randn(3), persistent=False)


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        part = Part()
        self.blocks = nn.Sequential(OrderedDict(first=part, again=part, norm=nn.BatchNorm2d(2), act=nn.ReLU()))
        self.hook = self.register_forward_hook(print)
        self.w = nn.Parameter(torch.randn(1))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapper", [None, "model"])
def test_a_pickled_module_gives_its_state_dictionary(tmp_path: Path, wrapper: str | None, zipped: bool) -> None:
    module = Whole()
    path = save(module if wrapper is None else {wrapper: module}, tmp_path / "m.pkl", zipped=zipped)
    with heard() as events:
        read = read_tensors(path)[0]
    assert same(read, module.state_dict())
    assert not events


@pytest.mark.parametrize("protocol", range(6))
def test_values_come_out_of_every_protocol(protocol: int) -> None:
    values = {"a": [1, -5, 2**70, 1.5, None, True, False, "words", ("x",), (1, 2), (1, 2, 3), (1, 2, 3, 4), (), {}, []]}
    values["again"] = [values["a"], values["a"]]  # recalled from memory
    stream = io.BytesIO(pickle.dumps(values, protocol) + b"rest")
    assert read_pickle(stream).content == values
    assert stream.read() == b"rest"


def test_every_opcode_has_its_place() -> None:
    assert {opcode.name for opcode in pickletools.opcodes} - OPERATIONS.keys() == {"NEXT_BUFFER", "READONLY_BUFFER"}
    assert len(OPERATIONS) == len(pickletools.opcodes) - 2


@pytest.mark.parametrize("zipped", [True, False])
def test_every_cut_is_noticed(tmp_path: Path, zipped: bool) -> None:
    whole = save({"state_dict": HONEST}, tmp_path / "whole.pt", zipped=zipped).read_bytes()
    cut = tmp_path / "cut.pt"
    for size in range(0, len(whole), 7):
        cut.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=rf"cut\.pt \({size} bytes\) is damaged"):
            read_tensors(cut)


def test_the_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"weights" * 100_000)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(b"weights" * 100_000).hexdigest()
    with pytest.raises(CheckpointError, match="no weight file at"):
        file_sha256(tmp_path / "nowhere")
