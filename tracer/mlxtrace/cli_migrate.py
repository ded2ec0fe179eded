# SPDX-License-Identifier: GPL-2.0-or-later
"""The command ``mlxtrace migrate``."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genbindings.console import CONTEXT, FiniteRange
from genbindings.errors import Error, UsageError
from mlxtrace.cli_device import device_name
from mlxtrace.devices import is_mediated, lookup, require_vfio_driver
from mlxtrace.migrate_limit import parse_rate
from mlxtrace.netaddress import Address, parse_address

if TYPE_CHECKING:
    from mlxtrace.migrate_model import Options, Result


def _address(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> Address | None:
    """Return a host and port; anything else is a usage error."""
    if value is None:
        return None
    try:
        return parse_address(value)
    except UsageError as error:
        raise click.BadParameter(f"{error}; {error.hint}", context, parameter) from None


def _rate(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """Return a bandwidth in bytes a second; anything else is a usage error."""
    if value is None:
        return None
    try:
        return parse_rate(value)
    except UsageError as error:
        raise click.BadParameter(f"{error}; {error.hint}", context, parameter) from None


_RULE_OPTIONS = ("downtime_limit", "min_rounds", "max_rounds", "switchover_bandwidth")
_SAVE_OPTIONS = ("no_precopy", "policy", *_RULE_OPTIONS, "data_timeout")


@click.command("migrate", context_settings=CONTEXT)
@click.option("--source", callback=device_name, metavar="DEVICE", help="VF whose state is saved.")
@click.option("--target", callback=device_name, metavar="DEVICE", help="VF that takes it over.")
@click.option(
    "--to",
    "to_file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Save the state in a stream file (.mlxstream) instead of a target.",
)
@click.option(
    "--from",
    "from_file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Load the state from a stream file instead of a source.",
)
@click.option(
    "--listen",
    callback=_address,
    metavar="HOST:PORT",
    help="Wait here for a source on another host. [::1]:4444 is IPv6; port 0: any that is free.",
)
@click.option(
    "--connect",
    callback=_address,
    metavar="HOST:PORT",
    help="Migrate to the target of another host, where --listen waits.",
)
@click.option(
    "--peer-timeout",
    type=FiniteRange(min=0, min_open=True),
    default=120,
    show_default=True,
    metavar="SECONDS",
    help="Give up when the other host says nothing for so long.",
)
@click.option(
    "--force",
    is_flag=True,
    help="Load the stream of another driver or kind of device all the same.",
)
@click.option("--no-precopy", is_flag=True, help="Stop the source first, then copy.")
@click.option(
    "--policy",
    type=click.Choice(["immediate", "rounds", "qemu"]),
    help="When to stop the source: at once; after N middle images (--policy rounds N); or when "
    "QEMU would. Otherwise when what the driver reports dirty fits in the downtime limit.",
)
@click.argument("rounds", metavar="[N]", required=False, type=click.IntRange(min=0))
@click.option(
    "--downtime-limit",
    type=click.IntRange(min=0),
    default=300,
    show_default=True,
    metavar="MS",
    help="Stop the source when what is left fits in this time, in milliseconds.",
)
@click.option(
    "--min-rounds",
    type=click.IntRange(min=0),
    default=2,
    show_default=True,
    metavar="N",
    help="Middle images to send before that; fewer only if nothing changes any more. With "
    "--policy qemu it is 0.",
)
@click.option(
    "--max-rounds",
    type=click.IntRange(min=1),
    default=30,
    show_default=True,
    metavar="N",
    help="Stop after so many middle rounds, whatever is left.",
)
@click.option(
    "--switchover-bandwidth",
    callback=_rate,
    metavar="RATE",
    help="With --policy qemu: reckon with this bandwidth instead of the one measured.",
)
@click.option(
    "--bandwidth-limit",
    callback=_rate,
    metavar="RATE",
    help="Pass on no more than this in a second: 500K, 100M, 1G (bytes) or 10Gbit.",
)
@click.option(
    "--data-timeout",
    type=FiniteRange(min=0, min_open=True),
    default=70,
    show_default=True,
    metavar="SECONDS",
    help="Give up when data that the driver announced has not come for so long.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    metavar="FILE",
    help="Write the summary as one JSON line to FILE, or to stdout (-) instead of text.",
)
@click.option(
    "--flip-byte",
    type=click.IntRange(min=0),
    metavar="OFFSET",
    help="Test aid: damage the byte at this offset of the stream on its way.",
)
@click.pass_context
def command(
    context: click.Context,
    source: str | None,
    target: str | None,
    to_file: Path | None,
    from_file: Path | None,
    listen: Address | None,
    connect: Address | None,
    peer_timeout: float,
    force: bool,
    no_precopy: bool,
    policy: str | None,
    rounds: int | None,
    downtime_limit: int,
    min_rounds: int,
    max_rounds: int,
    switchover_bandwidth: float | None,
    bandwidth_limit: float | None,
    data_timeout: float,
    json_file: Path | None,
    flip_byte: int | None,
) -> int:
    """Migrate a VF's state to another VF, to a file, from one, or to another host.

    DEVICE is a BDF, a mediated device's UUID, or a path in sysfs. Give where the state comes from
    (--source, --from or --listen) and where it goes (--target, --to or --connect). The VFs must be
    bound to mlx5-vfio-pci and not be in use. When it is done, the source is stopped and the target
    runs; both are reset when the command closes them (mediated devices are left as they are). If
    anything fails, the source runs again and the target is reset.

    Exit status: 0 done (and the state hashes are equal, where the lab offers them), 1 failed, or
    the summary could not be written; 2 usage.
    """
    _check_sides(source, target, to_file, from_file, listen, connect)
    if source is None:
        _refuse(context, _SAVE_OPTIONS, "says how to save: it goes with --source only.")
    if not (listen or connect) and _is_given(context, "peer_timeout"):
        raise click.UsageError("--peer-timeout goes with --listen or --connect.")
    if listen is not None and flip_byte is not None:
        raise click.UsageError("--flip-byte goes with --listen's other side.")
    if listen is not None and bandwidth_limit is not None:
        raise click.UsageError("--bandwidth-limit goes with --listen's other side.")
    if force and target is None:
        raise click.UsageError("--force goes with --target, on the host where that is.")
    _check_policy(context, policy, rounds, no_precopy)
    if policy == "qemu" and not _is_given(context, "min_rounds"):
        min_rounds = 0
    if min_rounds > max_rounds:
        raise click.UsageError(f"--min-rounds {min_rounds} exceeds --max-rounds {max_rounds}.")
    if json_file is not None and json_file.name != "-" and not json_file.parent.is_dir():
        raise Error(f"cannot write {json_file}: no such directory {json_file.parent}")

    from mlxtrace.migrate_model import Options
    from mlxtrace.migrate_policy import Policy

    options = Options(
        precopy=not no_precopy,
        policy=Policy(policy or Policy.ESTIMATE),
        rounds=rounds or 0,
        downtime_limit_s=downtime_limit / 1000,
        min_rounds=min_rounds,
        max_rounds=max_rounds,
        data_timeout_s=data_timeout,
        switchover_bandwidth=switchover_bandwidth,
        bandwidth_limit=bandwidth_limit,
    )
    result = _migrate(
        source or from_file or listen,
        target or to_file or connect,
        options,
        peer_timeout,
        force,
        flip_byte,
    )
    unwritten = _show(result, json_file)
    if result.error is not None:
        if unwritten is not None:
            click.echo(f"mlxtrace: {unwritten}", err=True)
        raise result.error
    if unwritten is not None:
        raise unwritten
    return 0


def _check_sides(
    source: str | None,
    target: str | None,
    to_file: Path | None,
    from_file: Path | None,
    listen: Address | None,
    connect: Address | None,
) -> None:
    """Check that there is one origin, one destination, and that they differ."""
    if [source, from_file, listen].count(None) != 2:
        raise click.UsageError("Give one of --source BDF, --from FILE and --listen HOST:PORT.")
    if [target, to_file, connect].count(None) != 2:
        raise click.UsageError("Give one of --target BDF, --to FILE and --connect HOST:PORT.")
    if from_file is not None and to_file is not None:
        raise click.UsageError("--from FILE --to FILE would only copy a file: give --target.")
    if listen is not None and connect is not None:
        raise click.UsageError("--listen --connect would only pass data on: give --target.")
    if connect is not None and connect.port == 0:
        raise click.UsageError("--connect needs the port at which --listen waits.")
    if source is not None and source == target:
        raise click.UsageError(f"--source and --target are the same device, {source}.")


def _check_policy(
    context: click.Context, policy: str | None, rounds: int | None, no_precopy: bool
) -> None:
    """Check that what was given besides --policy goes with it."""
    if policy is not None and no_precopy:
        raise click.UsageError("--no-precopy leaves --policy nothing to decide.")
    if policy == "rounds" and rounds is None:
        raise click.UsageError("--policy rounds needs their number: --policy rounds 3.")
    if policy != "rounds" and rounds is not None:
        raise click.UsageError(f"Unexpected argument {rounds}: only --policy rounds takes one.")
    if policy in ("immediate", "rounds"):
        _refuse(context, _RULE_OPTIONS, f"does not go with --policy {policy}.")
    if policy != "qemu":
        _refuse(context, ("switchover_bandwidth",), "goes with --policy qemu.")


def _refuse(context: click.Context, names: tuple[str, ...], why: str) -> None:
    """Refuse the first of the options ``names`` that was given."""
    for name in names:
        if _is_given(context, name):
            raise click.UsageError(f"--{name.replace('_', '-')} {why}")


def _is_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def _migrate(
    origin: str | Path | Address | None,
    destination: str | Path | Address | None,
    options: Options,
    peer_timeout_s: float,
    force: bool,
    flip: int | None,
) -> Result:
    """Open what is to be opened and migrate."""
    # Here and not above, so that help and usage errors do not wait for it.
    from mlxtrace import migrate, migrate_peer, migrate_receive, netaddress
    from mlxtrace.migrate_kin import kind_of, require_kin
    from mlxtrace.migrate_progress import cancelled_by_signals, shown_on_terminal
    from mlxtrace.streamfile import load
    from mlxtrace.vfio import Device
    from mlxtrace.wire import Peer

    with contextlib.ExitStack() as stack:
        check = stack.enter_context(cancelled_by_signals())
        file = load(origin) if isinstance(origin, Path) else None
        listener = None
        if isinstance(origin, Address):
            listener = stack.enter_context(netaddress.listen(origin))
        names = [name for name in (origin, destination) if isinstance(name, str)]
        found = {name: lookup(name) for name in names}
        # Before any is opened: opening a device resets it.
        for device_found in found.values():
            require_vfio_driver(device_found)
        if not force and isinstance(destination, str) and not isinstance(origin, Address):
            saved_from = file.header if file else kind_of(found[str(origin)])
            require_kin(str(origin), saved_from, found[destination])
        if isinstance(destination, Address):
            # Before that too: there may be nobody.
            connection = netaddress.connect(destination, check)
            peer = Peer(connection, str(destination), peer_timeout_s, check)
            stack.callback(peer.close)
        opened = {name: stack.enter_context(Device.open(name)) for name in names}
        for name, device in opened.items():
            if is_mediated(name) and device.migration_flags():
                device.make_running()
        if listener is not None:
            click.echo(f"listening at {netaddress.bound_to(listener)}", err=True)
        tell = stack.enter_context(shown_on_terminal())
        if listener is not None:
            assert isinstance(destination, str | Path)
            return migrate_receive.migrate_from_peer(
                listener,
                opened[destination] if isinstance(destination, str) else destination,
                peer_timeout_s,
                force=force,
                check=check,
                tell=tell,
                note=lambda line: click.echo(f"mlxtrace: {line}", err=True),
            )
        limit = options.bandwidth_limit
        ways: dict[str, Any] = {"flip_byte": flip, "check": check, "tell": tell}
        if file is not None and isinstance(destination, Address):
            return migrate_peer.send_file(file, peer, bandwidth_limit=limit, **ways)
        if file is not None:
            target = opened[str(destination)]
            return migrate.migrate_from_file(
                file, target, force=force, bandwidth_limit=limit, **ways
            )
        source = opened[str(origin)]
        if isinstance(destination, Address):
            return migrate_peer.migrate_to_peer(source, peer, options, **ways)
        if isinstance(destination, Path):
            return migrate.migrate_to_file(source, destination, options, **ways)
        return migrate.migrate_to_device(
            source, opened[str(destination)], options, force=force, **ways
        )


def _show(result: Result, json_file: Path | None) -> Error | None:
    """Print ``result``: as text, unless its JSON form goes to stdout.

    Returns why that form could not be written, if it could not.
    """
    from mlxtrace.migrate_model import summary
    from mlxtrace.migrate_report import render

    unwritten = None
    if json_file is not None:
        line = json.dumps(summary(result))
        if str(json_file) == "-":
            click.echo(line)
            return None
        try:
            json_file.write_text(line + "\n", encoding="utf-8")
        except OSError as error:
            unwritten = Error(f"cannot write {json_file}: {error.strerror}")
    for text in render(result):
        click.echo(text)
    return unwritten
