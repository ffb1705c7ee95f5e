"""Start Penstock with this example and process its sample pictures.

penstock up ──► upload the samples ──► penstock submit ──► show the rejections ──► download the results ──► keep serving
"""

import asyncio
import http.client
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import typer

from examples.demo import Failed, carry_out, check_port, penstock_up
from examples.images import draw
from examples.images.storage import DEFAULT_URL, URL_VARIABLE

APPLICATION = "examples.images.app:operations"
OPERATIONS_FILE = Path(".run/images.ndjson")
OUTCOMES_FILE = Path(".run/images-outcomes.ndjson")
FOLDER = Path(".run/images")

ANSWERED_AT_ONCE = 100  # the default of PENSTOCK_SYNC_MAX_OPERATIONS

Operation = dict[str, Any]
Outcome = dict[str, Any]

#: The operations on each sample, by the last part of their path.
WORK: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "thumbnail": [{"size": size} for size in (32, 48, 64, 96, 128, 192, 256, 512)],
    "filter": [{"kind": kind} for kind in ("blur", "sharpen", "grayscale", "autocontrast")],
    "convert": [
        {"format": "png"},
        *({"format": name, "quality": quality} for name in ("jpeg", "webp") for quality in (60, 90)),
    ],
}

#: Samples that are invalid on purpose, and one that is never uploaded, with the status of every operation on them.
REJECTED = {
    "cut-short.jpg": 422,
    "damaged.png": 422,
    "animated.gif": 422,
    "endless.png": 413,
    "bomb.webp": 413,
    "page.jpg": 415,
    "nowhere.jpg": 404,
}


def main(
    port: Annotated[int, typer.Option(min=1, max=65_535, help="The port of Penstock.")] = 8080,
    *,
    once: Annotated[bool, typer.Option("--once", help="Exit after the summary, with 0 if all is as expected.")] = False,
) -> None:
    """Start Penstock with the images example, process the sample pictures, and keep serving until Ctrl-C."""
    carry_out(partial(run, port, once=once))


def run(port: int, *, once: bool) -> bool:
    """Return True if every operation has the expected outcome and every result can be downloaded."""
    check_port(port, "python -m examples.images --port {port}")
    with penstock_up(APPLICATION, port, {URL_VARIABLE: DEFAULT_URL}) as penstock:
        penstock.wait_until_ready()
        asyncio.run(upload_samples(penstock.url))
        write_operations()
        is_well = penstock.submit(OPERATIONS_FILE, "--output", str(OUTCOMES_FILE))
        outcomes = read_outcomes()
        show_rejections(outcomes)
        is_well &= save_results(outcomes, asyncio.run(download_all(penstock.url, outcomes)))
        if not once:
            penstock.serve_until_interrupted(what_to_try(penstock.url))
    return is_well or not once


# Upload and download


async def upload_samples(url: str) -> None:
    """Upload all samples, and a file that is too large, which S3 itself must reject."""
    samples = {name: draw.FOLDER.joinpath(name).read_bytes() for name in (*draw.TAKEN, *draw.NOT_TAKEN)}
    wanted = [{"method": "POST", "path": "/uploads", "body": {"name": name}} for name in (*samples, "heavy.jpg")]
    async with aiohttp.ClientSession() as session:
        *offers, last = await results(session, url, wanted)
        for offer in offers:
            rejection = await upload(session, offer, samples[offer["name"]])
            if rejection:
                raise Failed(f"{offer['name']} could not be uploaded: {rejection}.")
        typer.echo(f"{len(samples)} pictures are uploaded to {DEFAULT_URL}, in the embedded AWS.")
        rejection = await upload(session, last, bytes(last["max_bytes"] + 1))
        if not rejection:
            raise Failed(f"S3 accepted {last['max_bytes'] + 1:,} bytes, which is more than the upload allows.")
        typer.echo(f"S3 itself rejected a file of {last['max_bytes'] + 1:,} bytes: {rejection}.")


async def upload(session: aiohttp.ClientSession, offer: Mapping[str, Any], content: bytes) -> str:
    """Upload one file. Return why S3 rejected it, or an empty text."""
    form = aiohttp.FormData(offer["fields"])
    form.add_field("file", content, filename=offer["name"])
    async with session.post(offer["url"], data=form) as answer:
        code = (await answer.text()).partition("<Code>")[2].partition("</Code>")[0]
        return "" if answer.ok else f"{answer.status} {code}"


async def download_all(url: str, outcomes: Sequence[Outcome]) -> dict[str, bytes]:
    keys = sorted({outcome["result"]["key"] for outcome in outcomes if "result" in outcome})
    downloaded = {}
    async with aiohttp.ClientSession() as session:
        for start in range(0, len(keys), ANSWERED_AT_ONCE):
            some = keys[start : start + ANSWERED_AT_ONCE]
            wanted = [{"method": "POST", "path": "/downloads", "body": {"key": key}} for key in some]
            for offer in await results(session, url, wanted):
                async with session.get(offer["url"]) as answer:
                    downloaded[offer["key"]] = await answer.read()
    return downloaded


async def results(session: aiohttp.ClientSession, url: str, operations: Sequence[Operation]) -> list[dict[str, Any]]:
    """Run a few operations synchronously and return their results. Raises Failed if one of them fails."""
    async with session.post(f"{url}/batch", json={"operations": operations}) as answer:
        body = await answer.json(content_type=None)
    if answer.status != http.client.OK or body["summary"]["failed"]:
        raise Failed(f"Penstock did not perform all operations: {json.dumps(body)[:1_000]}")
    return [outcome["result"] for outcome in body["results"]]


# The batch and its outcomes


def write_operations() -> None:
    OUTCOMES_FILE.unlink(missing_ok=True)  # remove the outcomes of an earlier run
    OPERATIONS_FILE.write_text("".join(f"{json.dumps(operation)}\n" for operation in operations()), encoding="utf-8")


def operations() -> Iterator[Operation]:
    for name in (*draw.TAKEN, *REJECTED):
        for how, bodies in WORK.items():
            for body in bodies:
                yield {
                    "id": " ".join([name, how, *map(str, body.values())]),
                    "method": "POST",
                    "path": f"/images/{name}/{how}",
                    "body": body,
                    "expect": str(REJECTED.get(name, 201)),
                }


def read_outcomes() -> list[Outcome]:
    return [json.loads(line) for line in OUTCOMES_FILE.read_text(encoding="utf-8").splitlines()]


def show_rejections(outcomes: Sequence[Outcome]) -> None:
    errors = [outcome for outcome in outcomes if "error" in outcome]
    reasons = Counter((each["id"].partition(" ")[0], each["status"], each["error"]["detail"]) for each in errors)
    typer.echo("\nRejected operations:")
    for (name, status, detail), count in sorted(reasons.items()):
        typer.echo(f"  {count:>3} x {name:<14} {status}  {detail}")


def save_results(outcomes: Sequence[Outcome], downloaded: Mapping[str, bytes]) -> bool:
    """Save the results in a folder. Return True if all are there and have the sizes in their outcomes."""
    reported = {
        outcome["result"]["key"]: outcome["result"]["size_bytes"] for outcome in outcomes if "result" in outcome
    }
    is_well = reported == {key: len(content) for key, content in downloaded.items()}
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    for key, content in downloaded.items():
        FOLDER.joinpath(key.removeprefix("made/").replace("/", "--")).write_bytes(content)
    verdict = "all results, with the right sizes" if is_well else "they differ from the outcomes"
    typer.echo(f"\n{len(downloaded)} pictures are in {FOLDER}: {verdict}.")
    return is_well


def what_to_try(url: str) -> str:
    return f"""\
  curl -s {url}/batch -H 'Content-Type: application/json' -d '{{"operations": [
    {{"id": "small", "method": "POST", "path": "/images/phone.jpg/thumbnail", "body": {{"size": 200}}}},
    {{"id": "bomb",  "method": "POST", "path": "/images/bomb.webp/convert",   "body": {{"format": "png"}}}},
    {{"id": "fetch", "method": "POST", "path": "/downloads", "body": {{"key": "made/phone.jpg/thumbnail-128.jpg"}}}},
    {{"id": "mine",  "method": "POST", "path": "/uploads",   "body": {{"name": "mine.jpg"}}}}]}}'"""


if __name__ == "__main__":
    typer.run(main)
