"""The whole product on one machine: servers, sandbox, API and workers, each its own process.

What demo, run, chaos, bench and the acceptance tests start. Everything binds to loopback on free
ports; everything that was started is stopped. A laptop and production differ only in `environ()`.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import httpx
import msgspec

from sandbox.kit.tls import tls_context
from sandbox.stack.errors import StackError
from sandbox.stack.local import DEFAULT_STATE_DIR, LocalStack
from sandbox.stack.passwords import Passwords
from sandbox.stack.ports import LOOPBACK, RememberedPorts
from sandbox.supabase.config import SupabaseConfig

ROOT = Path(__file__).resolve().parents[2]
READY_SECONDS = 60
_STOP_SECONDS = 25
_POLL_SECONDS = 0.05


class Child:
    """One of our own processes: its command, its log file, its end."""

    def __init__(self, name: str, arguments: Sequence[str], log: Path) -> None:
        self.name = name
        self.log = log
        self._arguments = [sys.executable, "-m", *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise StackError(f"{self.name} has not been started")
        return self._process.pid

    def start(self, environ: Mapping[str, str]) -> None:
        with self.log.open("ab") as log:
            # A session of its own: Ctrl-C reaches us, and we stop the children in order.
            self._process = subprocess.Popen(
                self._arguments,
                cwd=ROOT,
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return None if self._process is None else self._process.poll()

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL to the process and its children, as when a machine fails."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL to whatever is left of its group after the grace."""
        if self._process is None:
            return
        self.signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def tail(self, lines: int = 20) -> str:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


class Product:
    """The stack of `state_dir`, started in order. `settings` are extra environment variables.

    `temporary`: stopping it deletes its data.
    """

    def __init__(
        self,
        state_dir: Path = DEFAULT_STATE_DIR,
        *,
        durable: bool = True,
        temporary: bool = False,
        settings: Mapping[str, str] | None = None,
        fal_arguments: Sequence[str] = (),
        workers: int = 1,
        api_port: int | None = None,
    ) -> None:
        self.stack = LocalStack(state_dir, durable=durable)
        self.state_dir = self.stack.state_dir
        self._is_temporary = temporary
        self._settings = dict(settings or {})
        self._fal_arguments = list(fal_arguments)
        self._worker_count = workers
        self._api_port = api_port
        self._passwords = Passwords(self.state_dir / "keys.json")
        self.workers: list[Child] = []
        self.api_url = self.supabase_url = self.fal_url = self.stripe_url = ""
        self.api = self.supabase = self.fal = self.stripe = Child("none", [], Path())

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Everything, ready to serve. Raises: StackError, with the end of the log that says why."""
        self.stack.start()
        try:
            self._start_children()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        children = (*self.workers, self.api, self.fal, self.stripe, self.supabase)
        for child in children:
            child.signal(signal.SIGTERM)
        for child in children:
            child.stop()
        self.workers.clear()
        if self._is_temporary:
            self.stack.remove()
        else:
            self.stack.stop()

    def environ(self) -> dict[str, str]:
        """The environment of API and workers: the variables of `.env.example`."""
        return {
            **_inherited(),
            **self.stack.environ(),
            "APP_ENV": "development",
            "SUPABASE_URL": self.supabase_url,
            "SUPABASE_PUBLISHABLE_KEY": "sb_publishable_" + self._passwords.get("publishable"),
            "SUPABASE_SECRET_KEY": "sb_secret_" + self._passwords.get("secret"),
            "PUBLIC_BASE_URL": self.api_url,
            "SITE_URL": self.api_url,
            "FAL_QUEUE_URL": self.fal_url,
            "FAL_REST_URL": self.fal_url,
            "FAL_JWKS_URL": f"{self.fal_url}/.well-known/jwks.json",
            "FAL_AI_KEY_1": "sandbox-one:" + self._passwords.get("fal_one"),
            "FAL_AI_KEY_2": "sandbox-two:" + self._passwords.get("fal_two"),
            # The sandbox answers in a second, so poll for lost webhooks soon.
            "PROVIDER_POLL_FIRST_SECONDS": "3",
            "STRIPE_API_URL": self.stripe_url,
            "STRIPE_SECRET_KEY": "sk_test_" + self._passwords.get("stripe"),
            "STRIPE_WEBHOOK_SECRETS": "whsec_" + self._passwords.get("stripe_webhook"),
            # All people of a laptop call from one address. Still less than a project's 30.
            "RATE_LIMIT_MAILS": "24/hour",
            **self._settings,
        }

    def start_api(self) -> None:
        self.api.start(self.environ())

    def start_worker(self) -> Child:
        """One more worker process."""
        number = len(self.workers) + 1
        worker = Child(f"worker-{number}", ["worker"], self._log(f"worker-{number}"))
        worker.start(self.environ())
        self.workers.append(worker)
        return worker

    def wait_ready(self, *, seconds: float = READY_SECONDS) -> None:
        """Until /readyz reports ready: database, Redis, workers, provider accounts."""
        self._wait_for("the API", self.api, f"{self.api_url}/readyz", seconds=seconds, status="ok")

    def _start_children(self) -> None:
        (self.state_dir / "logs").mkdir(exist_ok=True)
        # The same ports again where they are free: tokens and signed URLs name their server.
        ports = RememberedPorts(self.state_dir / "ports.json")
        supabase_port, fal_port = ports.get("supabase"), ports.get("fal")
        stripe_port = ports.get("stripe")
        api_port = ports.get("api", self._api_port)
        self.api_url = f"http://{LOOPBACK}:{api_port}"
        self.supabase_url = f"http://{LOOPBACK}:{supabase_port}"
        self.fal_url = f"http://{LOOPBACK}:{fal_port}"
        self.stripe_url = f"http://{LOOPBACK}:{stripe_port}"
        environ = self.environ()
        self.supabase = Child(
            "supabase-sandbox",
            ["sandbox.supabase", "--config", str(self._supabase_config(environ))],
            self._log("supabase-sandbox"),
        )
        self.fal = Child(
            "fal-sandbox",
            [
                *("sandbox.fal", "--port", str(fal_port)),
                *("--state-dir", str(self.state_dir / "fal"), *self._fal_arguments),
            ],
            self._log("fal-sandbox"),
        )
        self.stripe = self._stripe_sandbox(stripe_port)
        self.api = Child(
            "api", ["api", "--host", LOOPBACK, "--port", str(api_port)], self._log("api")
        )
        self.supabase.start(environ)
        self.fal.start(environ)
        self.stripe.start(environ)
        jwks = f"{self.supabase_url}/auth/v1/.well-known/jwks.json"
        self._wait_for("the Supabase sandbox", self.supabase, jwks)
        self._wait_for("the fal sandbox", self.fal, environ["FAL_JWKS_URL"])
        self._wait_for("the Stripe sandbox", self.stripe, f"{self.stripe_url}/__control/health")
        self._set_up(environ, "scripts.seed", "scripts.stripe_setup")
        self.start_api()
        for _ in range(self._worker_count):
            self.start_worker()
        self._wait_for(
            "the API",
            self.api,
            f"{self.api_url}/readyz",
            status="ok" if self._worker_count else None,
        )

    def _supabase_config(self, environ: Mapping[str, str]) -> Path:
        config = SupabaseConfig(
            base_url=self.supabase_url,
            site_url=environ["SITE_URL"],
            data_dir=self.state_dir / "supabase",
            auth_database_url=self.stack.auth_database_url,
            storage_database_url=self.stack.storage_database_url,
            publishable_key=environ["SUPABASE_PUBLISHABLE_KEY"],
            secret_key=environ["SUPABASE_SECRET_KEY"],
            jwt_secret=environ.get("SUPABASE_JWT_SECRET"),
        )
        path = self.state_dir / "supabase.json"
        path.touch(mode=0o600)
        path.write_bytes(msgspec.json.encode(config, enc_hook=str))
        return path

    def _stripe_sandbox(self, port: int) -> Child:
        return Child(
            "stripe-sandbox",
            [
                *("sandbox.stripe", "--port", str(port)),
                *("--state-dir", str(self.state_dir / "stripe")),
                *("--webhook-url", f"{self.api_url}/v1/webhooks/stripe"),
            ],
            self._log("stripe-sandbox"),
        )

    def _set_up(self, environ: Mapping[str, str], *modules: str) -> None:
        """What an operator runs once for each outside service; here at the same time."""
        running = {
            module: subprocess.Popen(
                [sys.executable, "-m", module],
                cwd=ROOT,
                env=dict(environ),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for module in modules
        }
        said = {module: process.communicate()[0] for module, process in running.items()}
        for module, process in running.items():
            if process.returncode:
                raise StackError(f"{module} failed:\n{said[module]}")

    def _log(self, name: str) -> Path:
        return self.state_dir / "logs" / f"{name}.log"

    def _wait_for(
        self,
        what: str,
        child: Child,
        url: str,
        *,
        seconds: float = READY_SECONDS,
        status: str | None = None,
    ) -> None:
        """Until `url` answers 200; with `status`, until its JSON has that status."""
        until = time.monotonic() + seconds
        last = "no answer"
        with httpx.Client(timeout=5, verify=tls_context()) as client:
            while time.monotonic() < until:
                if not child.is_running():
                    raise StackError(f"{what} ended while starting:\n{child.tail()}")
                try:
                    reply = client.get(url)
                    last = f"{reply.status_code} {reply.text[:500]}"
                    if reply.is_success and (status is None or reply.json()["status"] == status):
                        return
                except httpx.HTTPError:
                    pass
                time.sleep(_POLL_SECONDS)
        raise StackError(f"{what} was not ready in {seconds:.0f} s: {last}\n{child.tail()}")


def _inherited() -> dict[str, str]:
    """The environment without settings of ours that a shell may hold, such as real keys."""
    ours = ("SUPABASE_", "FAL_", "DATABASE_", "WORKER_", "MIGRATION_", "REDIS_", "STRIPE_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}
