# SPDX-License-Identifier: GPL-2.0-or-later
"""Patches as mails: one mail into its parts, an mbox into mails, mails into a series."""

from __future__ import annotations

import email
import email.policy
import re
from dataclasses import dataclass
from email.header import decode_header, make_header
from email.utils import parseaddr
from typing import TYPE_CHECKING

from genbindings.errors import Error

if TYPE_CHECKING:
    from collections.abc import Sequence
    from email.message import Message

# git's and every mail program's; a line "From now on" of a commit message is none.
_FROM = re.compile(
    rb"^From \S+ +(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}\r?$",
    re.MULTILINE,
)
# Files of git format-patch behind each other (cat *.patch): no line of a diff begins like that.
_FORMAT_PATCH = re.compile(rb"From [0-9a-f]{40,64} Mon Sep 17 00:00:00 2001\r?$", re.MULTILINE)
_DIFF = re.compile(r"^(?:diff --git |--- \S.*\n\+\+\+ \S)", re.MULTILINE)
_TEXTS = ("text/plain", "text/x-patch", "text/x-diff")
_TAG = re.compile(r"^\s*\[(?P<tags>[^\]]*)\]\s*")
_HEADER = re.compile(
    rb"\A(?:From [^\n]*\n)?(?:[A-Za-z][A-Za-z0-9-]*:[^\n]*\n(?:[ \t][^\n]*\n)*)+\r?\n"
)


@dataclass(frozen=True)
class Mail:
    """A mail with a patch or a cover letter in it.

    Attributes:
        raw: the text of the file; a mail that was encoded for transport is decoded.
        subject: without ``[PATCH ...]``.
        number, count, version: of ``[PATCH vVERSION NUMBER/COUNT]``; count is 0 without it.
        body: the commit message, or the cover letter's text.
        notes: what stands between ``---`` and the diff: not part of the commit.
        diff: from the first line of the diff on; empty in a cover letter.
    """

    raw: bytes
    subject: str
    author: str
    date: str
    tags: str
    number: int
    count: int
    version: int
    body: str
    notes: str
    diff: str
    reply: bool = False
    message_id: str = ""

    @property
    def base_commit(self) -> str:
        """The commit of a ``base-commit:`` line, or nothing."""
        text = f"{self.body}\n{self.notes}\n{self.diff}"
        match = re.search(r"^base-commit: ([0-9a-f]{7,64})\s*$", text, re.MULTILINE)
        return match[1] if match else ""


def parse(data: bytes) -> Mail:
    """Return the parts of one mail or patch file; a bare diff has no subject."""
    if _HEADER.match(data) is None:
        text = _text(data)
        body, notes, diff = _split(text)
        return Mail(data, "", "", "", "", 0, 0, 1, body, notes, diff)
    start = data.find(b"\n") + 1 if data.startswith(b"From ") else 0
    message = email.message_from_bytes(data[start:], policy=email.policy.compat32)
    encoded, text = _payload(message, data[start:])
    subject = _header(message, "Subject")
    author = _header(message, "From")
    body, notes, diff = _split(text)
    body, author, subject = _in_body(body, author, subject)
    reply = bool(re.match(r"\s*(?:re|aw|fwd?)\s*:", subject, re.IGNORECASE))
    tags, bare = "", subject.strip()
    while match := _TAG.match(bare):
        tags = f"{tags} {match['tags']}".strip()
        bare = bare[match.end() :]
    part = re.search(r"(?:^|\s)(\d+)/(\d+)(?:\s|$)", tags)
    version = re.search(r"(?:^|\s|PATCH)v(\d+)(?:\s|$)", tags)
    date = _header(message, "Date")
    raw = data
    if encoded:
        raw = f"From: {author}\nDate: {date}\nSubject: [{tags}] {bare}\n\n{text}".encode(
            "utf-8", "surrogateescape"
        )
    return Mail(
        raw,
        bare,
        author,
        date,
        tags,
        int(part[1]) if part else 0,
        int(part[2]) if part else 0,
        int(version[1]) if version else 1,
        body,
        notes,
        diff,
        reply,
        _header(message, "Message-Id"),
    )


def split(data: bytes) -> list[bytes]:
    """Return the mails of an mbox, each with its ``From`` line."""
    starts = [match.start() for match in _FROM.finditer(data) if _begins(data, match.start())]
    return [data[begin:end] for begin, end in zip(starts, [*starts[1:], len(data)], strict=True)]


def is_mbox(data: bytes) -> bool:
    """Return whether ``data`` begins as an mbox does."""
    return _FROM.match(data) is not None


def _begins(data: bytes, at: int) -> bool:
    return (
        at == 0
        or data[max(at - 2, 0) : at] == b"\n\n"
        or data[max(at - 4, 0) : at] == b"\r\n\r\n"
        or _FORMAT_PATCH.match(data, at) is not None
    )


def arrange(mails: Sequence[Mail], what: str) -> tuple[Mail | None, list[Mail]]:
    """Return the cover letter, if any, and the patches in order; answers are left out.

    With several versions in a thread the newest counts.

    Raises:
        Error: there is no patch, one is missing, or two have the same number.
    """
    wanted = [mail for mail in mails if not mail.reply]
    patches = [mail for mail in wanted if mail.diff]
    if not patches:
        raise Error(f"{what} has no patch in it", "is it an mbox of git format-patch or b4 am?")
    version = max(mail.version for mail in patches)
    patches = [mail for mail in patches if mail.version == version]
    count = max(mail.count for mail in patches)
    covers = [
        mail
        for mail in wanted
        if not mail.diff and mail.count and mail.number == 0 and mail.version == version
    ]
    cover = covers[0] if covers else None
    if count == 0:
        return cover, patches
    numbered: dict[int, Mail] = {}
    for mail in patches:
        if mail.number in numbered:
            raise Error(
                f"{what} has patch {mail.number}/{count} twice: "
                f"{numbered[mail.number].subject!r} and {mail.subject!r}",
                "keep one series in the file",
            )
        numbered[mail.number] = mail
    missing = [str(number) for number in range(1, count + 1) if number not in numbered]
    if missing:
        raise Error(
            f"{what} is not complete: patch {', '.join(missing)} of {count} is missing",
            "the mbox was cut, or a mail is lost: take the series again, with b4 am say",
        )
    return cover, [numbered[number] for number in sorted(numbered)]


def file_name(number: int, subject: str) -> str:
    """Return the name that git format-patch gives a patch."""
    slug = re.sub(r"[^A-Za-z0-9._]+", "-", subject).strip("-.")
    slug = re.sub(r"\.\.+", ".", slug)[:52].rstrip("-.")
    return f"{number:04d}-{slug or 'patch'}.patch"


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _header(message: Message, name: str) -> str:
    value = message.get(name)
    if value is None:
        return ""
    try:
        text = str(make_header(decode_header(str(value))))
    except (LookupError, ValueError):
        text = str(value)
    return re.sub(r"\s*\n\s+", " ", text).strip()


def _payload(message: Message, data: bytes) -> tuple[bool, str]:
    """Return whether the mail was encoded, and its text."""
    if message.is_multipart():
        # The message may be in one part and the diff in the next, or both in one.
        parts = [part for part in message.walk() if part.get_content_type() in _TEXTS]
        return True, "\n".join(_decoded(part).rstrip("\n") + "\n" for part in parts)
    encoding = str(message.get("Content-Transfer-Encoding", "")).lower()
    charset = (message.get_content_charset() or "utf-8").lower()
    if encoding in ("base64", "quoted-printable") or charset not in ("utf-8", "us-ascii", "ascii"):
        return True, _decoded(message)
    end = re.search(rb"\r?\n\r?\n", data)
    return False, _text(data[end.end() :]) if end else ""


def _decoded(part: Message) -> str:
    data = part.get_payload(decode=True)
    raw = data if isinstance(data, bytes) else b""
    charset = (part.get_content_charset() or "utf-8").lower()
    try:
        text = _text(raw) if charset in ("utf-8", "us-ascii") else raw.decode(charset)
    except (LookupError, ValueError):
        text = _text(raw)
    # In an encoded part line ends are the mail's, not the patch's, if all are the same.
    whole = text.count("\r\n") == text.count("\n")
    return text.replace("\r\n", "\n") if whole else text


def _split(text: str) -> tuple[str, str, str]:
    found = _DIFF.search(text)
    message, diff = (text[: found.start()], text[found.start() :]) if found else (text, "")
    body, line, notes = message.partition("\n---\n")
    if not line and message.startswith("---\n"):
        body, notes = "", message[4:]
    if not found:
        # A cover letter ends with git's signature; "---" in it is a rule.
        body, notes = re.split(r"^-- ?$", message, maxsplit=1, flags=re.MULTILINE)[0], ""
        notes = message[len(body) :]
    return body.strip("\n"), notes.strip("\n"), diff


def _in_body(body: str, author: str, subject: str) -> tuple[str, str, str]:
    """Take ``From:`` and ``Subject:`` lines at the top of the body, as git am does."""
    lines = body.split("\n")
    while lines and (match := re.match(r"(From|Subject): (.+)$", lines[0])):
        if match[1] == "From":
            if "@" not in parseaddr(match[2])[1]:
                break
            author = match[2]
        else:
            subject = match[2]
        lines.pop(0)
        while lines and not lines[0]:
            lines.pop(0)
    return "\n".join(lines), author, subject
