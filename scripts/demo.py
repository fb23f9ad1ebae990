"""The main job on a real photo, from sign-up to image, refund and a pack: `make demo [PHOTO=path]`.

Starts the whole product on free ports with a state of its own, does what a user would do, writes
the images and report.json to demo-output/, and stops everything. Exit 0 only if one generation
succeeded, one was refunded, a pack was bought and its unused part returned, and the ledger
balances.
"""

import argparse
import asyncio
import itertools
import json
import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from sandbox.stack.errors import StackError
from sandbox.stack.product import ROOT, Product
from scripts.api_client import ApiClient, ApiProblemError, Document, sign_up
from scripts.reconcile import CannotTellError, report_on

SAMPLE = ROOT / "tests" / "data" / "samples" / "ring.jpg"
OUTPUT = ROOT / "demo-output"

# The sandbox's models refuse a text with this word, as a provider's content policy would.
REFUSED_PROMPT = "On a mirror, with forbidden-content in the background"
JOBS: tuple[tuple[str, str, Document], ...] = (
    ("packshot", "white packshot, own pixels", {"shadow": "soft"}),
    ("scene", "scene on marble, redrawn", {"preset": "marble"}),
    ("scene", "a scene that the provider refuses", {"prompt": REFUSED_PROMPT}),
)
PACK = "credits_10"
# Costs more than what is left of the credits from sign-up, so that it uses a part of the pack.
JOB_AFTER_PURCHASE: tuple[str, str, Document] = (
    "scene_hd",
    "scene by daylight in two steps, redrawn",
    {"preset": "daylight"},
)


class ProgressLine:
    """One live line on a terminal; one line a state elsewhere."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._started = time.monotonic()
        self._state = "queued"
        self._is_live = sys.stdout.isatty()

    def change(self, generation: Document) -> None:
        self._state = generation["state"]
        if not self._is_live:
            print(f"    {self._seconds():5.1f} s  {self._state}", flush=True)

    async def tick(self) -> None:
        for mark in itertools.cycle("|/-\\"):
            if self._is_live:
                self._draw(mark)
            await asyncio.sleep(0.1)

    def end(self) -> None:
        if self._is_live:
            self._draw(" ")
            print()

    def _draw(self, mark: str) -> None:
        print(
            f"\r    {mark} {self._label:<36} {self._state:<11} {self._seconds():5.1f} s",
            end="",
            flush=True,
        )

    def _seconds(self) -> float:
        return time.monotonic() - self._started


def say(text: str = "") -> None:
    print(text, flush=True)


async def run_job(client: ApiClient, upload: Document, label: str, body: Document) -> Document:
    """One generation with its progress line; the finished document."""
    generation = await client.post("/v1/generations", {"upload_id": upload["id"], **body})
    line = ProgressLine(label)
    ticking = asyncio.create_task(line.tick())
    try:
        return await client.finish(generation["id"], line.change)
    finally:
        ticking.cancel()
        line.end()


async def use_product(product: Product, photo: Path) -> Document:
    """What a user does and sees; the report without the ledger's proof."""
    environ = product.environ()
    email = f"demo-{secrets.token_hex(4)}@jewelshot.example"
    say(f"Signing up {email} with the official Supabase client.")
    token, mail = await sign_up(
        supabase_url=environ["SUPABASE_URL"],
        publishable_key=environ["SUPABASE_PUBLISHABLE_KEY"],
        email=email,
        password=secrets.token_urlsafe(16),
    )
    say(f"  The mail {mail['subject']!r} came and its link was opened.")
    async with ApiClient(product.api_url, token) as client:
        me = await client.get("/v1/me")
        granted = me["balance"]["available"]
        say(f"  The address is verified: {granted} credits to start with.")
        upload = await _upload(client, photo)
        generations = [
            await _make(client, upload, slug, label, params) for slug, label, params in JOBS
        ]
        order = await _buy(client)
        generations.append(await _make(client, upload, *JOB_AFTER_PURCHASE))
        payment = await _return_unused(client, order)
        balance = (await client.get("/v1/me"))["balance"]
    by_money = {
        money: sum(entry["credits"] for entry in generations if entry["state"] in states)
        for money, states in (("confirmed", {"succeeded"}), ("refunded", {"failed", "cancelled"}))
    }
    say()
    say(
        f"Credits: {granted} granted, {payment['credits']} bought, {by_money['confirmed']} spent,"
        f" {by_money['refunded']} refunded, {payment['refunded_credits']} returned,"
        f" {balance['available']} left."
    )
    return {
        "generations": generations,
        "payments": [payment],
        "credits": {
            "granted": granted,
            **by_money,
            "available": balance["available"],
            "reserved": balance["reserved"],
        },
    }


async def _buy(client: ApiClient) -> Document:
    """A pack through the payment page; the paid order."""
    say()
    say(f"Buying the pack {PACK} on the payment page.")
    order = await client.buy(PACK)
    if order["state"] != "paid":
        raise ApiProblemError({"title": "The pack did not arrive", "detail": order["state"]})
    balance = (await client.get("/v1/me"))["balance"]
    say(
        f"    Paid {_money(order['amount_total'], order)}: {order['credits']} credits arrived,"
        f" {balance['available']} to spend."
    )
    return order


async def _return_unused(client: ApiClient, order: Document) -> Document:
    """Returns the money for the unused credits of the pack; an entry of the report."""
    say()
    say("Returning the unused credits of the pack.")
    refund = await client.refund(order["id"])
    found = await client.get(f"/v1/payments/{order['id']}")
    say(
        f"    {_money(refund['amount'], refund)} go back for {found['refunded_credits']} of"
        f" {found['credits']} credits: {found['state'].replace('_', ' ')}."
    )
    return {
        "order": found["id"],
        "pack": found["pack"],
        "credits": found["credits"],
        "state": found["state"],
        "refunded_credits": found["refunded_credits"],
    }


def _money(amount: int, of: Document) -> str:
    return f"{amount / 100:.2f} {of['currency'].upper()}"


async def _upload(client: ApiClient, photo: Path) -> Document:
    data = await asyncio.to_thread(photo.read_bytes)
    say(f"Uploading {photo.name} ({len(data) / 1e6:.2f} MB).")
    upload = await client.upload(photo.name, data)
    if upload["state"] != "ready":
        raise ApiProblemError(upload["problem"] or {})
    notes = "; ".join(upload["notes"]) or "nothing had to be changed"
    say(f"  Ready: {upload['width']} x {upload['height']} pixels; {notes}.")
    return upload


async def _make(
    client: ApiClient, upload: Document, slug: str, label: str, params: Document
) -> Document:
    """One entry of the report; the image lands in demo-output/."""
    say()
    say(f"{slug}: {label}")
    done = await run_job(client, upload, label, {"operation": slug, "params": params})
    image = None
    if done["image"] is not None:
        file_name, data = await client.download(done)
        path = OUTPUT / f"{slug}{Path(file_name).suffix}"
        path.write_bytes(data)
        image = path.name
        say(
            f"    {done['image']['width']} x {done['image']['height']} pixels in"
            f" {_shown(path)}; {done['lane']}: {done['lane_in_words']}"
        )
    else:
        say(f"    {done['problem']['detail']}")
    await _explain(client, done)
    return {
        "id": done["id"],
        "operation": done["operation"],
        "lane": done["lane"],
        "state": done["state"],
        "credits": done["cost_credits"],
        "image": image,
        "problem": done["problem"],
        "timeline": done["timeline"],
    }


async def _explain(client: ApiClient, done: Document) -> None:
    explained = await client.get(f"/v1/credits/explain/{done['id']}")
    for line in explained["lines"]:
        say(f"      {line['text']}")


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prove_ledger(product: Product) -> Document:
    """How many transfers the ledger holds, and how many rows do not follow from the others."""
    report = asyncio.run(report_on(product.stack.migration_database_url))
    return {"transfers": report.transfers, "drift": len(report.drift)}


def _require_photo(photo: Path) -> None:
    if not photo.is_file():
        raise SystemExit(f"demo: there is no file {photo}; use make demo PHOTO=path/to/file")


def _write_input(photo: Path) -> None:
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir()
    shutil.copyfile(photo, OUTPUT / f"input{photo.suffix.lower()}")


def _contact_sheet() -> Path | None:
    """Input and results side by side in one picture."""
    pictures = []
    for path in sorted(OUTPUT.iterdir()):
        try:
            with Image.open(path) as image:
                pictures.append(image.convert("RGB").resize((480, 480)))
        except OSError:
            continue  # report.json, or an input that only the product can read
    if not pictures:
        return None
    sheet = Image.new("RGB", (480 * len(pictures), 480), "white")
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (480 * number, 0))
    path = OUTPUT / "overview.jpg"
    sheet.save(path, quality=90)
    return path


def is_proved(report: Document) -> bool:
    """One delivered and charged, one refused and refunded, a pack bought and its unused part
    returned, and the ledger balances."""
    states = [entry["state"] for entry in report["generations"]]
    return (
        "succeeded" in states
        and "failed" in states
        and all(entry["refunded_credits"] > 0 for entry in report["payments"])
        and report["credits"]["reserved"] == 0
        and report["ledger"]["drift"] == 0
    )


def run_demo(photo: Path) -> int:
    started = time.monotonic()
    _require_photo(photo)
    _write_input(photo)
    with tempfile.TemporaryDirectory(prefix="jewelshot-demo-") as folder:
        say("Starting PostgreSQL, Valkey, the sandbox, the API and a worker on free ports.")
        with Product(Path(folder) / "state", durable=False, temporary=True) as product:
            say(f"  Up in {time.monotonic() - started:.1f} s: API at {product.api_url}")
            used = asyncio.run(use_product(product, photo))
            ledger = prove_ledger(product)
    report = {
        **used,
        "ledger": ledger,
        "seconds": round(time.monotonic() - started, 1),
    }
    (OUTPUT / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    say(f"Ledger: {ledger['transfers']} transfers, {ledger['drift']} rows of drift.")
    sheet = _contact_sheet()
    say(
        f"Wrote {_shown(OUTPUT)}/ ({_shown(sheet) if sheet else 'no pictures'}, report.json)"
        f" in {report['seconds']} s. Everything is stopped."
    )
    return 0 if is_proved(report) else 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--photo", type=Path, default=SAMPLE)
    arguments = parser.parse_args()
    try:
        return run_demo(arguments.photo.expanduser().resolve())
    except (ApiProblemError, CannotTellError, StackError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
