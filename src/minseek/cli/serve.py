"""``minseek serve``: an OpenAI-compatible server in a fixed memory budget."""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import sys
from typing import TYPE_CHECKING

from minseek.cli.batch_plan import plan_text, show_batch_plan
from minseek.cli.flags import add_memory_flags, add_model_flags, add_strategy_flag, choose_model, load_model
from minseek.cli.startup import import_torch
from minseek.errors import InputError
from minseek.reasoning.strategies import RULES, canonical_rule
from minseek.reasoning.strategy_text import parse_strategy_text
from minseek.units import format_bytes

if TYPE_CHECKING:
    import socket

    from minseek.engine import BatchPlan
    from minseek.models import Model
    from minseek.reasoning import Strategy
    from minseek.serve.server import Server
    from minseek.serve.server_settings import ServerSettings

KEY_VARIABLE = "MINSEEK_API_KEY"
METRICS_KEY_VARIABLE = "MINSEEK_METRICS_KEY"
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class ServeCommand:
    """Parses the flags, plans, and serves until it is stopped, with exit code 0."""

    name = "serve"
    help = "answer OpenAI's API over HTTP, many requests at once, in a memory budget fixed beforehand"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the flags of ``minseek serve``."""
        add_model_flags(parser)
        group = parser.add_argument_group("memory")
        add_memory_flags(group, "bytes that all slots together may take, such as 192MB (default: what they need)")
        group.add_argument(
            "--slot-tokens",
            type=int,
            metavar="N",
            help="tokens of a slot (default: the model's context, or less so that four slots fit)",
        )
        group.add_argument("--slots", type=int, metavar="N", help="choices in flight at once (default: as many as fit)")

        group = parser.add_argument_group("address and access")
        group.add_argument("--host", default="127.0.0.1", help="listen at this address (default: %(default)s)")
        group.add_argument(
            "--port", type=int, default=8000, help="listen at this port; 0 takes a free one (default: %(default)s)"
        )
        group.add_argument(
            "--api-key", metavar="KEY", help=f"require this key of every client; better in ${KEY_VARIABLE}"
        )
        group.add_argument(
            "--metrics-key",
            metavar="KEY",
            help=f"require this key for /metrics in place of the API key; better in ${METRICS_KEY_VARIABLE}",
        )
        group.add_argument(
            "--allowed-host", action="append", metavar="NAME", help="accept this name for the server, too"
        )
        group.add_argument(
            "--cors-origin",
            action="append",
            metavar="ORIGIN",
            help="let pages of this origin use it, such as https://a.org",
        )

        group = parser.add_argument_group("limits")
        group.add_argument(
            "--queue", type=int, default=64, metavar="N", help="let N choices wait (default: %(default)s)"
        )
        group.add_argument(
            "--max-completion-tokens",
            type=int,
            default=32768,
            metavar="N",
            help="end a choice after N generated tokens, thinking included (default: %(default)s)",
        )
        group.add_argument(
            "--max-body", default="1MB", metavar="SIZE", help="refuse larger requests (default: %(default)s)"
        )
        group.add_argument(
            "--grace",
            type=float,
            default=30,
            metavar="S",
            help="when stopped, give requests S seconds to finish (default: %(default)s)",
        )

        group = parser.add_argument_group("default thinking of chats")
        add_strategy_flag(group, "the model's own")
        group.add_argument("--thoughts", metavar="N", help="induce N thoughts, or 'unbounded' (default: 10)")
        group.add_argument("--keep", type=int, metavar="K", help="keep K induced thoughts with min-seek (default: 1)")
        group.add_argument(
            "--rule", type=canonical_rule, choices=RULES, help="keep these thoughts with min-seek (default: shortest)"
        )

        group = parser.add_argument_group("output")
        group.add_argument("--plan", action="store_true", help="print the memory it would take, and do not serve")
        group.add_argument("--json", action="store_true", help="print the plan as one JSON object")
        group.add_argument("--log-prompts", action="store_true", help="write the texts of requests to the log")
        group.add_argument(
            "--log-format", choices=("text", "json"), default="text", help="lines of the log (default: %(default)s)"
        )
        group.add_argument(
            "--log-level",
            choices=("info", "warning", "error"),
            default="info",
            help="log every request, only refused and failed ones, or only failed ones (default: %(default)s)",
        )

    def run(self, args: argparse.Namespace) -> int:
        """Serve until stopped."""
        if args.json and not args.plan:
            raise InputError("--json has no effect without --plan: leave it out")
        if not 0 <= args.grace < float("inf"):
            raise InputError(f"--grace must be 0 or more seconds, not {args.grace}")
        import_torch()
        from minseek.serve.app import create_app  # noqa: F401 -- so that the plan measures it
        from minseek.serve.default_thinking import default_thinking
        from minseek.serve.server import bind, is_loopback
        from minseek.serve.slot_plan import plan_slots

        settings = _settings(args)
        choose_model(args)
        bound = None if args.plan else bind(args.host, args.port)
        try:
            model = load_model(args)
            plan = plan_slots(model, kv_budget=args.kv_budget, slot_tokens=args.slot_tokens, slots=args.slots)
            default_thinking(model, plan, settings)  # refuse a strategy that does not fit before anything is printed
            if bound is None:
                show_batch_plan(plan, as_json=args.json)
                return 0
            print(plan_text(plan), file=sys.stderr)
            if not is_loopback(bound) and settings.api_key is None:
                print(
                    f"minseek: anyone who reaches {args.host} can use this server: give it an --api-key",
                    file=sys.stderr,
                )
            return _serve(args, model, plan, settings, bound)
        finally:
            if bound is not None:
                bound.close()


def _serve(
    args: argparse.Namespace, model: Model, plan: BatchPlan, settings: ServerSettings, bound: socket.socket
) -> int:
    """Serve until a signal arrives."""
    from minseek.serve.app import create_app
    from minseek.serve.log import log_to
    from minseek.serve.server import LOOPBACK_NAMES, Server, is_loopback, listen

    log_to(None, args.log_format, args.log_level)
    hosts = args.allowed_host
    if is_loopback(bound):
        hosts = [*LOOPBACK_NAMES, args.host, *(hosts or ())]
    settings = dataclasses.replace(settings, hosts=None if hosts is None else tuple(hosts))
    try:
        app = create_app(model, plan, settings)
    except RuntimeError as error:  # torch has one kind of error for all that fails
        raise InputError(
            f"{plan.slots} slots of {format_bytes(plan.slot.nbytes)} could not be allocated: give a smaller "
            "--kv-budget or fewer --slots"
        ) from error
    server = Server(app, args.grace)
    _stop_at_signals(server)
    listen(bound, args.host, args.port)
    address, port = bound.getsockname()[:2]
    print(f"minseek: serving {app.state.service.name} at http://{_in_url(address)}:{port}", file=sys.stderr, flush=True)
    server.run(sockets=[bound])
    print("minseek: stopped", file=sys.stderr)
    return 0


def _stop_at_signals(server: Server) -> None:
    """Handle the signals that uvicorn raises again after it has stopped; before its start they stop it."""

    def stop(*_: object) -> None:
        server.should_exit = True

    for number in _STOP_SIGNALS:
        signal.signal(number, stop)


def _settings(args: argparse.Namespace) -> ServerSettings:
    """Build the settings from the flags, except those that depend on the address."""
    from minseek.serve.server_settings import ServerSettings
    from minseek.units import parse_bytes

    return ServerSettings(
        strategy=_strategy(args),
        queue=args.queue,
        max_completion_tokens=args.max_completion_tokens,
        max_body_bytes=parse_bytes(args.max_body),
        api_key=os.environ.get(KEY_VARIABLE) if args.api_key is None else args.api_key,
        metrics_key=os.environ.get(METRICS_KEY_VARIABLE) if args.metrics_key is None else args.metrics_key,
        cors_origins=tuple(args.cors_origin or ()),
        log_prompts=args.log_prompts,
    )


def _strategy(args: argparse.Namespace) -> Strategy | None:
    from minseek.protocol.thinking import parse_strategy

    names = ("thoughts", "keep", "rule")
    options = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.strategy is None:
        if options:
            raise InputError(f"--{next(iter(options))} has no effect without --strategy: give both or none")
        return None
    thoughts = options.get("thoughts", "")
    if thoughts.isdecimal():
        options["thoughts"] = int(thoughts)
    try:
        name, given = parse_strategy_text(args.strategy)
        for option in options.keys() & given.keys():
            raise InputError(f"--{option} and --strategy {args.strategy} both give {option}: leave one out")
        strategy = parse_strategy({"strategy": name, **options})
        return dataclasses.replace(strategy, **given)
    except InputError as error:
        raise InputError(str(error).replace("thinking.", "--")) from None


def _in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address
