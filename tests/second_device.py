"""A second device, made of Python: finds what would fail on a GPU, on a machine without one.

Import it first; then torch.device("second") exists, and M6REC_DEVICE=second makes the package compute there. Its
tensors hold ordinary CPU tensors, every operator runs on those, values are exact, and what CUDA refuses is refused with
CUDA's words: mixing with CPU tensors (0-dimensional ones and index tensors excepted), .numpy() without .cpu(). Slow: a
Python call per operator. It needs torch 2.13's experimental Python backend; it is no part of the package.

Known limits: no streams, no autocast, no pinned memory (choose those where device.type == "cuda"); strided views are
copied when they are not contiguous (writes through such a view are lost); as_strided beyond a view's own memory. Give
it a process of its own and import it before torch computes anything (a backward pass on the CPU before it breaks the
next one); forks of that process have it too. `calls` counts operators by name, so that a test can ask for no
aten::_local_scalar_dense (.item()) in a training step. A failure in here and not in your code is to be mended here. Run
as a program it checks itself.
"""

import collections
import contextlib
import copy
import functools
from typing import NamedTuple

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "second"
_setup_privateuseone_for_python_backend(NAME)
module = torch.get_device_module(NAME)  # its random numbers are the CPU's: for torch.random.fork_rng
module.get_rng_state = lambda _: torch.get_rng_state()
module.set_rng_state = lambda state, _: torch.set_rng_state(state)
DEVICE = torch.device(NAME, 0)
_held: dict[int, tuple[StorageWeakRef, torch.Tensor]] = {}  # a storage's address -> whether it lives, its CPU tensor
_made = 0
calls: collections.Counter[str] = collections.Counter()


def on_second(x: object) -> bool:
    return isinstance(x, torch.Tensor) and not x.is_cpu and x.device.type == NAME


def _wrap(raw: torch.Tensor) -> torch.Tensor:
    """A CPU tensor -> a tensor of the second device that holds it."""
    global _made
    with torch.inference_mode(False) if torch.is_inference_mode_enabled() else contextlib.nullcontext():
        made = torch._C._acc.create_empty_tensor(raw.shape, raw.dtype)
    storage = made.untyped_storage()
    _held[storage._cdata] = (StorageWeakRef(storage), raw.detach())
    _made += 1
    if _made % 4000 == 0:
        for key in [key for key, (alive, _) in _held.items() if alive.expired()]:
            del _held[key]
    return made


def _raw(x: torch.Tensor) -> torch.Tensor:
    """A tensor of the second device -> the CPU tensor that it holds."""
    raw = _held[x.untyped_storage()._cdata][1]
    return raw if raw.shape == x.shape or raw.numel() != x.numel() else raw.reshape(x.shape)


class _Plan(NamedTuple):
    """What has to be known of an operator to run it."""

    name: str
    whole: bool  # fused optimisers read gradients as if they were contiguous
    reshapes: bool
    indexes: bool  # as on CUDA, indices may lie on the CPU
    tensors: tuple[int, ...]  # arguments that must be tensors where a number is given
    written: tuple[tuple[int, str], ...]  # arguments that are written in place
    returned: int  # how many of them come back


@functools.cache
def _plan(op) -> _Plan:
    name, arguments, returns = op.name(), op._schema.arguments, op._schema.returns
    in_place = bool(returns) and returns[0].alias_info is not None and returns[0].alias_info.is_write
    return _Plan(
        name,
        name.startswith("aten::_fused"),
        name in ("aten::view", "aten::_unsafe_view"),
        name.startswith(("aten::index.Tensor", "aten::index_put", "aten::_index_put_impl_")),
        tuple(i for i, given in enumerate(arguments) if str(given.type) in ("Tensor", "Optional[Tensor]")),
        tuple((i, a.name) for i, a in enumerate(arguments) if a.alias_info is not None and a.alias_info.is_write),
        len(returns) if in_place else 0,
    )


def _run(op, *args, **kwargs):
    """Any operator: unwrap, run on the CPU, wrap; refuse strangers."""
    plan, strangers = _plan(op), []
    calls[plan.name] += 1

    def unwrap(x):
        if isinstance(x, torch.Tensor):
            if not x.is_cpu:
                return _raw(x).contiguous() if plan.whole else _raw(x)
            if x.dim() > 0:
                strangers.append(tuple(x.shape))
            return x
        return [unwrap(part) for part in x] if isinstance(x, (list, tuple)) else x

    a, k = [unwrap(x) for x in args], {key: unwrap(x) for key, x in kwargs.items()}
    if strangers and plan.indexes and on_second(args[0]) and (len(args) < 3 or on_second(args[2]) or not args[2].dim()):
        strangers = []
    if strangers:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"{DEVICE} and cpu! ({plan.name}, {strangers})"
        )
    for i in plan.tensors:
        if i < len(a) and isinstance(a[i], (bool, int, float)):
            a[i] = torch.tensor(a[i])
    if k.get("device") is not None:
        k["device"] = torch.device("cpu")
    k.pop("pin_memory", None)
    out = a[0].reshape(a[1]) if plan.reshapes and not isinstance(a[1], torch.dtype) else op(*a, **k)
    if plan.written and plan.returned:  # what is written in place comes back as the very tensor that was handed in
        written = [args[i] if i < len(args) else kwargs.get(name) for i, name in plan.written]
        for x in written:
            if on_second(x) and x.numel() != _held[x.untyped_storage()._cdata][1].numel():
                x.data = _wrap(_held[x.untyped_storage()._cdata][1])
        return written[0] if plan.returned == 1 else tuple(written)
    if isinstance(out, torch.Tensor):
        return _wrap(out) if out.is_cpu else out
    return pytree.tree_map(lambda x: _wrap(x) if isinstance(x, torch.Tensor) and x.is_cpu else x, out)


_fallback = torch.library.Library("_", "IMPL")
_fallback.fallback(_run, "PrivateUse1")
_aten = torch.library.Library("aten", "IMPL")


def _implement(name: str, function) -> None:
    _aten.impl(name, function, "PrivateUse1")


def _empty(size, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):
    return _wrap(torch.empty(size, dtype=dtype or torch.get_default_dtype()))


def _empty_strided(size, stride, dtype=None, layout=None, device=None, pin_memory=None):
    return _wrap(torch.empty(size, dtype=dtype or torch.get_default_dtype()))


def _copy_from(source, target, non_blocking=False):
    (_raw(target) if on_second(target) else target).copy_(_raw(source) if on_second(source) else source)
    return target


def _as_strided(x, size, stride, storage_offset=None):
    raw = _raw(x)
    raw = raw if raw.is_contiguous() else raw.contiguous()
    return _wrap(torch.as_strided(raw, size, stride, (storage_offset or 0) + raw.storage_offset()))


def _restride(x, size, stride, storage_offset=None):
    x.data = _as_strided(x, size, stride, storage_offset)
    return x


def _implement_functional() -> None:
    """Operators that PyTorch would build from their `out=` form: run them on the CPU tensors at once."""
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    for full in torch._C._dispatch_get_all_op_names():
        name = full.removeprefix("aten::")
        if name == full or has(full, "CompositeImplicitAutograd") or has(full, "PrivateUse1"):
            continue
        if not (has(full, "CompositeExplicitAutogradNonFunctional") or has(full, "CompositeExplicitAutograd")):
            continue
        packet, _, overload = name.partition(".")
        try:
            op = getattr(getattr(torch.ops.aten, packet), overload or "default")
        except AttributeError:
            continue
        signature = op._schema
        written = [part.alias_info is not None for part in [*signature.arguments, *signature.returns]]
        if any(written) and not packet.startswith("_foreach"):  # these write, and would take a tensor at a time
            continue
        left = ("_to_copy", "_has", "empty", "new_empty", "_efficient", "_unsafe_view", "is_", "_assert", "lift")
        if not any("Tensor" in str(part.type) for part in signature.arguments) or packet.startswith(left):
            continue
        _implement(name, lambda *a, _op=op, **k: _run(_op, *a, **k))


_implement("empty.memory_format", _empty)
_implement("empty_strided", _empty_strided)
_implement("_copy_from", _copy_from)
_implement("as_strided", _as_strided)
_implement("as_strided_", _restride)
_implement_functional()


def _gru_cell(inputs, hidden, hx, input_bias=None, hidden_bias=None):
    """The fused cell that devices other than the CPU are asked for: gates (B, 3H) of reset, update and new."""
    (ir, iu, new), (hr, hu, hn) = (
        (x if bias is None else x + bias).chunk(3, 1) for x, bias in ((inputs, input_bias), (hidden, hidden_bias))
    )
    r, u = (ir + hr).sigmoid(), (iu + hu).sigmoid()
    n = (new + r * hn).tanh()
    return n + u * (hx - n), torch.cat((r, u, n, hx, hn), 1)


def _gru_cell_backward(grad, workspace, has_bias):
    r, u, n, hx, hn = workspace.chunk(5, 1)
    new = grad * (1 - u) * (1 - n * n)
    gates = new * hn * (1 - r) * r, grad * (hx - n) * (1 - u) * u
    inputs, hidden = torch.cat((*gates, new), 1), torch.cat((*gates, new * r), 1)
    biases = (inputs.sum(0), hidden.sum(0)) if has_bias else (None, None)
    return inputs, hidden, grad * u, *biases


_implement("_thnn_fused_gru_cell", _gru_cell)
_implement("_thnn_fused_gru_cell_backward", _gru_cell_backward)


def _deepcopy_with(original):
    def deepcopy(self, memo):
        if not on_second(self):
            return original(self, memo)
        if id(self) not in memo:
            copied = _wrap(_raw(self).clone())
            if isinstance(self, torch.nn.Parameter):
                copied = torch.nn.Parameter(copied, self.requires_grad)
            memo[id(self)] = copied
        return memo[id(self)]

    return deepcopy


torch.Tensor.__deepcopy__ = _deepcopy_with(torch.Tensor.__deepcopy__)
torch.nn.Parameter.__deepcopy__ = _deepcopy_with(torch.nn.Parameter.__deepcopy__)
_Generator = torch.Generator


class _AnyGenerator(_Generator):
    """torch.Generator(device="second") draws on the CPU."""

    def __new__(cls, device="cpu"):
        return _Generator.__new__(_Generator, "cpu")


torch.Generator = _AnyGenerator
torch.accelerator.synchronize = lambda device=None: None  # nothing runs behind one's back


def _check() -> None:
    x = torch.randn(3, 4)
    a = x.to(NAME)
    assert a.device == DEVICE and torch.equal((a + a).cpu(), x + x) and float(a.sum()) == float(x.sum())
    for refused in (lambda: a + x, lambda: a.numpy(), lambda: x[a.argmax(0)]):
        try:
            refused()
        except (RuntimeError, TypeError):
            continue
        raise AssertionError("the second device let a CPU tensor in")
    assert torch.equal(a[torch.tensor([0, 2])].cpu(), x[[0, 2]]) and torch.equal(a[a > 0].cpu(), x[x > 0])
    assert torch.equal(a.T[1:, :2].cpu(), x.T[1:, :2]) and torch.equal(a[:, 1].cumsum(0).cpu(), x[:, 1].cumsum(0))
    assert torch.allclose((a[0] @ a.T).cpu(), x[0] @ x.T) and torch.equal(a.clone().unsqueeze_(1).cpu(), x[:, None])
    torch.manual_seed(0)
    encoder = torch.nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
    net = torch.nn.Sequential(torch.nn.Embedding(9, 8, padding_idx=0), encoder, torch.nn.Linear(8, 3))
    twin, ids, y = copy.deepcopy(net).to(NAME), torch.randint(0, 9, (5, 6)), torch.randint(0, 3, (5, 6))
    for model, i, t in ((net, ids, y), (twin, ids.to(NAME), y.to(NAME))):
        step = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        for _ in range(3):
            loss = torch.nn.functional.cross_entropy(model(i).flatten(0, 1), t.flatten())
            step.zero_grad()
            loss.backward()
            step.step()
    for mine, other in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, other.detach().cpu(), rtol=1e-4, atol=1e-5)
    gru = torch.nn.GRU(3, 4, batch_first=True)
    same = copy.deepcopy(gru).to(NAME)
    for model in (gru, same):
        model(torch.ones(2, 5, 3, device=model.weight_hh_l0.device))[0].sum().backward()
    torch.testing.assert_close(gru.weight_ih_l0.grad, same.weight_ih_l0.grad.cpu())
    line = torch.nn.Linear(3, 3)
    other = copy.deepcopy(line).to(NAME)
    for model in (line, other):
        step = torch.optim.AdamW(model.parameters(), 1e-2, fused=model is line)
        model(torch.ones(2, 3, device=model.weight.device)).sum().backward()
        step.step()
    torch.testing.assert_close(line.bias, other.bias.detach().cpu())
    before = calls["aten::_local_scalar_dense"]
    float(other.bias.detach().sum())
    assert calls["aten::_local_scalar_dense"] == before + 1
    assert all(on_second(p) for p in copy.deepcopy(twin).parameters())
    with torch.inference_mode():
        assert torch.equal(twin(ids.to(NAME)).flatten().cpu(), twin(ids.to(NAME)).flatten().cpu())
        assert torch.rand(2, generator=torch.Generator(device=NAME).manual_seed(1), device=NAME).device == DEVICE
    print("the second device computes as the CPU does, and refuses what CUDA refuses")


if __name__ == "__main__":
    _check()
