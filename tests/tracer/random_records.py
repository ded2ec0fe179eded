# SPDX-License-Identifier: GPL-2.0-or-later
"""Random record streams: what several VFs may do, in any order and chunks; and what none does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st

from mlxtrace import records
from mlxtrace.mailbox import STATES, Opcode
from mlxtrace.records import Kind

from .raw_records import CLEANUP, FINAL, INITIAL, MIDDLE, Clock, Vf, source_migrates, target_loads

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = ("0000:01:00.1", "0000:01:00.2", "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001")

_sizes = st.integers(0, 2**21)
_states = st.sampled_from(STATES)
_flags = st.sampled_from([INITIAL, MIDDLE, FINAL, CLEANUP])
_small = st.integers(0, 3)
_ends = st.fixed_dictionaries(
    {}, optional={"temporary": _small, "final": _small, "again": _small, "errors": _small,
                  "errno": st.integers(0, 140)},
)  # fmt: skip

raws = st.builds(
    records.Raw,
    boot_ns=st.integers(0, 2**64 - 1),
    vdev=st.integers(0, 3),
    pid=st.integers(0, 2**32 - 1),
    tid=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(list(Kind)) | st.integers(0, 2**16 - 1),
    flags=st.integers(0, 2**16 - 1),
    result=st.integers(-(2**31), 2**31 - 1),
    comm=st.binary(max_size=16),
    value=st.lists(
        st.integers(0, 9) | st.integers(0, 2**64 - 1) | st.sampled_from([0x115, 0x117, 0x119]),
        max_size=10,
    ).map(tuple),
)
"""Any record, whether anything could have made it or not."""

Act = tuple[str, tuple[object, ...], dict[str, int]]
_acts: st.SearchStrategy[Act] = st.one_of(
    st.tuples(st.just("go"), st.tuples(_states, _states), st.just({})),
    st.tuples(st.just("arc"), st.tuples(_states, _states, _states), st.just({})),
    st.tuples(st.just("set_state"), st.tuples(_states, st.integers(-140, 0)), st.just({})),
    st.tuples(st.just("query"), st.tuples(_sizes), st.just({})),
    st.tuples(st.just("issue"), st.tuples(_flags, _sizes, _states), st.just({})),
    st.tuples(st.just("done"), st.tuples(_sizes, _small), st.just({})),
    st.tuples(st.just("save"), st.tuples(_flags, _sizes), st.just({})),
    st.tuples(st.just("ioctl"), st.tuples(_sizes, _sizes, st.integers(-140, 0)), st.just({})),
    st.tuples(st.sampled_from(["read", "write"]), st.tuples(_small, _sizes), _ends),
    st.tuples(
        st.just("flowing"),
        st.tuples(st.sampled_from([Kind.READ, Kind.WRITE]), _small, _sizes),
        st.just({}),
    ),
    st.tuples(
        st.just("crossed"),
        st.tuples(st.sampled_from([Kind.READ, Kind.WRITE]), _small, _sizes),
        st.fixed_dictionaries({}, optional={"temporary": _small, "errors": _small}),
    ),
    st.tuples(
        st.just("command"),
        st.tuples(st.sampled_from([int(opcode) for opcode in Opcode])),
        st.fixed_dictionaries({}, optional={"size": _sizes, "status": _small, "syndrome": _small}),
    ),
)
_whole: list[Callable[[Vf], None]] = [source_migrates, target_loads]


@st.composite
def streams(draw: st.DrawFn, odd: bool = False) -> list[bytes]:
    """Chunks of whole records, as the ring gives them; with ``odd``, of any records at all."""
    out: list[bytes] = []
    clock = Clock()
    vfs = [Vf(clock, name, 0x1000 * number, out) for number, name in enumerate(NAMES, 1)]
    if draw(st.booleans()):
        # The name of the first one was lost.
        del out[0]
    for _ in range(draw(st.integers(0, 25))):
        vf = draw(st.sampled_from(vfs))
        if odd and draw(st.booleans()):
            out.append(records.pack(draw(raws)))
        elif not draw(st.integers(0, 9)):
            draw(st.sampled_from(_whole))(vf)
        elif not draw(st.integers(0, 19)):
            # It is bound anew: another device to the kernel, whose totals begin at 0.
            vfs[vfs.index(vf)] = Vf(clock, draw(st.sampled_from(NAMES)), clock.now, out)
        elif not draw(st.integers(0, 19)):
            # Its address is another VF's, which has totals of its own, or goes on with these.
            tenant = draw(st.sampled_from([0, clock.now]))
            other = Vf(clock, draw(st.sampled_from(NAMES)), vf.vdev, out, tenant)
            if not tenant:
                other.flows = vf.flows
            vfs[vfs.index(vf)] = other
        elif not draw(st.integers(0, 19)):
            vf.put(Kind.LOST, draw(_sizes))
        else:
            name, words, ends = draw(_acts)
            getattr(vf, name)(*words, **ends)
    chunks = [out[: draw(st.integers(0, len(out)))]]
    chunks += [[record] for record in out[len(chunks[0]) :]]
    return [b"".join(chunk) for chunk in chunks]
