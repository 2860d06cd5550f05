"""``bucketry publish`` as it is typed: into a folder, into a bucket of SeaweedFS, and what is refused there."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tests.store.seaweed import Seaweed
from tests.support.images import MIB, Blob, Image, Index, make_image, make_index, to_json, write_layout
from tests.support.server import bucketry
from tests.support.tools import root_only, tool
from tests.transfer.command import Done, Person
from tests.transfer.terminal import watch

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
APP = make_image(seed=61, sizes=(300, 12 * MIB))
NEXT = make_image(seed=62, sizes=(300, 40_000))
BOTH = make_index([make_image(63, (300,)), make_image(64, (300,), "arm64")])


@pytest.fixture
def person(tmp_path: Path) -> Person:
    person = Person.at(tmp_path / "person")
    images: dict[str, Image | Index] = {"v1": APP, "v2": NEXT, "both": BOTH}
    for tag, image in images.items():
        write_layout(person.work / tag, image, tag)
    return person


def publish(person: Person, *arguments: str | Path, env: dict[str, str] | None = None) -> Done:
    return person.types("publish", *arguments, env=env)


def done(person: Person, *arguments: str | Path, env: dict[str, str] | None = None) -> list[str]:
    done = publish(person, *arguments, env=env)
    assert done.code == 0, done.err + done.out
    assert "Traceback" not in done.err
    return done.lines


def files(site: Path) -> set[str]:
    found = {str(path.relative_to(site)) for path in site.rglob("*") if path.is_file()}
    return {path for path in found if not path.startswith(".bucketry-")}


def there(site: Path, name: str, reference: str, content: Image | Index) -> None:
    """Asserts that all of it is there, byte for byte."""
    assert (site / "v2" / name / "manifests" / reference).read_bytes() == content.manifest.data
    for image in content.images if isinstance(content, Index) else (content,):
        assert (site / "v2" / name / "manifests" / image.digest).read_bytes() == image.manifest.data
        for blob in (image.config, *image.layers):
            assert (site / "v2" / name / "blobs" / blob.digest).read_bytes() == blob.data


# Into a folder.


def test_images_become_files_and_the_end_says_how_to_serve_them(person: Person, tmp_path: Path) -> None:
    site = tmp_path / "site"
    lines = done(person, "oci:v1:v1", "--name", "team/app", "--to", site)

    there(site, "team/app", "v1", APP)
    assert lines[0].startswith("published 1 image of team/app: 12.0 MiB sent; ")
    assert f'include "{site}/bucketry-nginx.conf"' in lines[2]
    assert lines[-1] == "docker pull images.example.com/team/app:v1"
    assert {"index.html", "Caddyfile", "bucketry-nginx.conf", "v2/_catalog"} <= files(site)
    assert "docker pull" in (site / "index.html").read_text()


def test_what_is_there_is_not_sent_again(person: Person, tmp_path: Path) -> None:
    site = tmp_path / "site"
    done(person, "oci:v1:v1", "--name", "app", "--to", site)
    lines = done(person, "oci:v1:v1", "--name", "app", "--to", site)
    assert lines[0].startswith("published 1 image of app: 12.0 MiB already there; 0 files written")

    # Nor what another repository of the site has: that is linked.
    lines = done(person, "oci:v1:v1", "--name", "other", "--to", site)
    assert "12.0 MiB copied within the site" in lines[0]
    blob = f"blobs/{APP.layers[1].digest}"
    assert (site / "v2/app" / blob).samefile(site / "v2/other" / blob)


def test_a_dry_run_writes_nothing_and_tells_the_files_the_requests_and_the_storage(
    person: Person, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    said = "\n".join(done(person, "oci:v1:v1", "--name", "app", "--to", site, "--dry-run"))

    assert "Nothing was written." in said
    assert files(site) == set()
    for words in ("  sent                        3  12.0 MiB", "\n  tags ", "\nrequests", "  PUT ", "\n  then"):
        assert words in said, said

    done(person, "oci:v1:v1", "--name", "app", "--to", site)
    before = files(site)
    said = "\n".join(done(person, "oci:v2:v2", "--name", "app", "--to", site, "--dry-run", "--prune"))
    assert "no longer published: app:v1" in said
    assert f"v2/app/blobs/{APP.layers[1].digest}" in said
    assert files(site) == before


def test_of_a_dry_run_programs_hear_the_plan_and_of_nothing_done(person: Person, tmp_path: Path) -> None:
    lines = done(person, "oci:v1:v1", "--name", "app", "--to", tmp_path / "site", "--dry-run", "--json")
    (plan,) = map(json.loads, lines)
    assert (plan["event"], plan["dryRun"]) == ("published", True)
    assert plan["written"]["manifests"]["files"] == 1


def test_a_prune_takes_away_what_is_not_named_when_its_grace_is_over(person: Person, tmp_path: Path) -> None:
    site = tmp_path / "site"
    done(person, "oci:v1:v1", "--name", "app", "--to", site)
    lines = done(person, "oci:both:both", "--name", "app", "--to", site, "--prune")
    there(site, "app", "both", BOTH)
    assert not (site / "v2/app/manifests/v1").exists()
    assert (site / "v2/app/blobs" / APP.layers[1].digest).exists()
    assert any("a prune after the grace deletes them" in line for line in lines)

    lines = done(person, "oci:both:both", "--name", "app", "--to", site, "--prune", "--grace", "0s")
    there(site, "app", "both", BOTH)
    assert not (site / "v2/app/blobs" / APP.layers[1].digest).exists()
    assert any(line.startswith("deleted ") for line in lines)


def test_several_images_of_a_registry_a_bucket_and_a_layout_keep_their_names(person: Person, tmp_path: Path) -> None:
    site, store = tmp_path / "site", tmp_path / "store"
    sbom = Blob(b"{}", "application/vnd.example.sbom")
    empty = Blob(b"{}", "application/vnd.oci.empty.v1+json")
    artifact = to_json(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": "application/vnd.example.sbom",
            "config": empty.descriptor(),
            "layers": [sbom.descriptor()],
            "subject": APP.manifest.descriptor(),
        },
        OCI_MANIFEST,
    )
    write_layout(person.work / "sbom", Image(artifact, empty, (sbom,), (), ""), "sbom")
    with bucketry(str(store), tmp_path / "log") as server:
        name = f"{server.host}/team/app"
        for tag in ("v1", "v2", "sbom"):
            pushed = person.types("push", f"oci:{tag}:{tag}", f"{name}:{tag}")
            assert pushed.code == 0, pushed.err
        done(person, f"{name}:v1", f"{name}@{NEXT.digest}", "--to", site)
        there(site, "team/app", "v1", APP)
        there(site, "team/app", NEXT.digest, NEXT)
        assert not (site / "v2/team/app/manifests/v2").exists()
        referrers = json.loads((site / "v2/team/app/referrers" / APP.digest).read_bytes())
        assert [entry["digest"] for entry in referrers["manifests"]] == [artifact.digest]

    # By all tags, from the folder itself: nothing passes through, the files are links.
    lines = done(person, f"file:{store}/team/app", "--all-tags", "--to", site)
    assert lines[0].startswith("published 3 images of team/app")
    assert json.loads((site / "v2/team/app/tags/list").read_bytes())["tags"] == ["sbom", "v1", "v2"]

    bare = tmp_path / "bare"
    done(person, f"file:{store}/team/app:v1", "--name", "renamed:v9", "--no-referrers", "--to", bare)
    there(bare, "renamed", "v9", APP)
    assert json.loads((bare / "v2/renamed/referrers" / APP.digest).read_bytes())["manifests"] == []


def test_one_platform_of_an_index_can_be_published_alone(person: Person, tmp_path: Path) -> None:
    site = tmp_path / "site"
    done(person, "oci:both:both", "--name", "app", "--to", site, "--platform", "linux/arm64")

    there(site, "app", "both", BOTH.images[1])


def test_programs_get_every_event_and_the_result_as_lines_of_json(person: Person, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in done(person, "oci:v1:v1", "--name", "app", "--to", tmp_path / "s", "--json")]

    assert lines[0]["event"] == "began"
    assert lines[0]["action"] == "publish"
    assert [line["event"] for line in lines[-2:]] == ["ended", "published"]
    assert lines[-1]["ways"]["sent"]["files"] == 3
    assert lines[-1]["images"] == ["app:v1"]


def test_quietly_one_line_is_said(person: Person, tmp_path: Path) -> None:
    said = publish(person, "oci:v1:v1", "--name", "app", "--to", tmp_path / "site", "--quiet")

    assert said.code == 0
    assert len(said.lines) == 1
    assert said.err == ""


def test_on_a_terminal_bars_end_as_done_and_the_result_follows(person: Person, tmp_path: Path) -> None:
    command, environ = person.command(["publish", "oci:v1:v1", "--name", "app", "--to", tmp_path / "site"])
    seen = watch(command, env=environ, cwd=person.work, columns=100)
    text = "\n".join(seen.screen)

    assert seen.code == 0
    assert [line.rpartition(" ")[2] for line in seen.screen if "━" in line] == ["done"] * 3, text
    assert "stopped" not in text
    assert "\npublished 1 image of app: 12.0 MiB sent; " in text


# What is refused, with nothing changed.


def test_a_folder_that_is_not_ours_is_refused(person: Person, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "notes.txt").write_text("mine")
    publish(person, "oci:v1:v1", "--name", "app", "--to", site).fails(1, "not empty", "notes.txt")

    assert files(site) == {"notes.txt"}


def test_a_folder_that_has_but_a_link_is_not_empty(person: Person, tmp_path: Path) -> None:
    """What would be written below the link is elsewhere."""
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    site.mkdir()
    elsewhere.mkdir()
    (site / "v2").symlink_to(elsewhere)
    publish(person, "oci:v1:v1", "--name", "app", "--to", site).fails(1, "not empty", "v2")

    assert list(elsewhere.iterdir()) == []


def test_a_registry_is_refused_as_a_site(person: Person, tmp_path: Path) -> None:
    store = tmp_path / "store"
    assert person.types("push", "oci:v1:v1", f"file:{store}/app:v1").code == 0
    before = files(store)
    publish(person, "oci:v1:v1", "--name", "app", "--to", store).fails(1, "holds a registry", "bucketry.json")

    assert files(store) == before


def test_a_site_of_a_newer_format_is_refused(person: Person, tmp_path: Path) -> None:
    site = tmp_path / "site"
    done(person, "oci:v1:v1", "--name", "app", "--to", site)
    state = json.loads((site / "bucketry-site.json").read_bytes())
    (site / "bucketry-site.json").write_text(json.dumps({**state, "format": 99}))
    before = files(site)
    publish(person, "oci:v2:v2", "--name", "app", "--to", site).fails(1, "99", "newer bucketry")

    assert files(site) == before


def test_a_name_that_would_need_a_file_to_be_a_folder_is_refused(person: Person, tmp_path: Path) -> None:
    site = tmp_path / "site"
    done(person, "oci:v1:v1", "--name", "app", "--to", site)
    before = files(site)
    publish(person, "oci:v2:v2", "--name", "app/manifests/v1", "--to", site).fails(2, "a file and a folder at once")

    assert files(site) == before


def test_an_image_that_is_not_there_is_said_and_no_site_is_made(person: Person, tmp_path: Path) -> None:
    site = tmp_path / "site"
    publish(person, "oci:v1:none", "--name", "app", "--to", site).fails(1, "none", "v1")

    assert not files(site)


def test_a_folder_that_may_not_be_written_is_said(person: Person, tmp_path: Path) -> None:
    root_only("taking rights away")
    setpriv = tool("setpriv")
    site = tmp_path / "site"
    site.mkdir(mode=0o755)
    before: Sequence[str] = [setpriv, "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
    _readable(tmp_path)
    said = person.types("publish", "oci:v1:v1", "--name", "app", "--to", site, before=before)
    said.fails(1, "ermission")

    assert not files(site)


def _readable(folder: Path) -> None:
    """For others than its owner, with all above it; their home and cache are theirs to write."""
    for path in (*folder.parents, folder, *folder.rglob("*")):
        if path.stat().st_uid == os.getuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o644))
    for name in ("home", "cache", "tmp"):
        (folder / "person" / name).chmod(0o777)


# Into a bucket.


@pytest.fixture
def bucket(seaweed: Seaweed) -> Iterator[str]:
    """A bucket of this test's own."""
    name = f"site-{uuid.uuid4().hex[:12]}"
    seaweed.create_bucket(name)
    yield name
    client = seaweed.client()
    try:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=name):
            for item in page.get("Contents", ()):
                client.delete_object(Bucket=name, Key=item["Key"])
        client.delete_bucket(Bucket=name)
    finally:
        client.close()


def keys(seaweed: Seaweed, bucket: str) -> set[str]:
    client = seaweed.client()
    try:
        return {item["Key"] for item in client.list_objects_v2(Bucket=bucket).get("Contents", ())}
    finally:
        client.close()


def test_a_bucket_without_public_read_is_said_with_a_policy_that_makes_it_public(
    person: Person, seaweed: Seaweed, bucket: str
) -> None:
    to = f"s3://{bucket}/images"
    lines = done(person, "oci:v1:v1", "--name", "app", "--to", to, env=seaweed.environ())
    assert any("Nobody but you may read it yet" in line for line in lines)
    begin, end = lines.index("{"), lines.index("}")
    policy = "\n".join(lines[begin : end + 1])
    address = f"{seaweed.endpoint}/{bucket}/images/v2/app/manifests/v1"
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(address, timeout=10)

    client = seaweed.client()
    try:
        client.put_bucket_policy(Bucket=bucket, Policy=policy)
    finally:
        client.close()
    with urllib.request.urlopen(address, timeout=10) as answer:
        assert answer.read() == APP.manifest.data
        assert answer.headers["Content-Type"] == OCI_MANIFEST
        assert answer.headers["Cache-Control"] == "public, max-age=60"
    for private in ("bucketry-site.json", "other"):
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{seaweed.endpoint}/{bucket}/images/{private}", timeout=10)

    lines = done(person, "oci:v1:v1", "--name", "app", "--to", to, env=seaweed.environ())
    assert "12.0 MiB already there" in lines[0]
    assert not any("Nobody but you" in line for line in lines)
    assert f"{seaweed.endpoint}/{bucket}/images/index.html" in "\n".join(lines)
    assert any("at the root of a host" in line for line in lines)


def test_from_a_registry_in_the_same_place_nothing_passes_through(
    person: Person, seaweed: Seaweed, bucket: str
) -> None:
    store, environ = f"s3://{bucket}/registry", seaweed.environ()
    pushed = person.types("push", "oci:v1:v1", f"{store}//team/app:v1", env=environ)
    assert pushed.code == 0, pushed.err
    lines = done(person, f"{store}//team/app:v1", "--to", f"s3://{bucket}/site", env=environ)

    assert lines[0].startswith("published 1 image of team/app: 12.0 MiB copied by the store")
    assert "site/v2/team/app/manifests/v1" in keys(seaweed, bucket)
    assert not any("Caddyfile" in key or "/~/" in key for key in keys(seaweed, bucket))


def test_a_bucket_with_other_things_in_it_is_refused(person: Person, seaweed: Seaweed, bucket: str) -> None:
    client = seaweed.client()
    try:
        client.put_object(Bucket=bucket, Key="site/notes.txt", Body=b"mine")
    finally:
        client.close()
    said = publish(person, "oci:v1:v1", "--name", "app", "--to", f"s3://{bucket}/site", env=seaweed.environ())
    said.fails(1, "not empty", "notes.txt", secrets=[seaweed.secret_key])

    assert keys(seaweed, bucket) == {"site/notes.txt"}


def test_who_may_only_read_is_told_so(person: Person, seaweed: Seaweed) -> None:
    prefix = uuid.uuid4().hex
    environ = {
        **seaweed.environ(),
        "AWS_ACCESS_KEY_ID": seaweed.reader_access_key,
        "AWS_SECRET_ACCESS_KEY": seaweed.reader_secret_key,
    }
    said = publish(person, "oci:v1:v1", "--name", "app", "--to", f"s3://{seaweed.bucket}/{prefix}", env=environ)
    said.fails(1, "not allowed", "AWS_ACCESS_KEY_ID", secrets=[seaweed.reader_secret_key])

    assert not any(key.startswith(prefix) for key in keys(seaweed, seaweed.bucket))


def test_a_bucket_that_is_not_there_is_said(person: Person, seaweed: Seaweed) -> None:
    publish(person, "oci:v1:v1", "--name", "app", "--to", "s3://no-such-bucket", env=seaweed.environ()).fails(
        1, "no-such-bucket"
    )


def test_a_dry_run_leaves_a_bucket_empty(person: Person, seaweed: Seaweed, bucket: str) -> None:
    to = f"s3://{bucket}"
    lines = done(person, "oci:v1:v1", "--name", "app", "--to", to, "--dry-run", env=seaweed.environ())

    assert any(line.startswith("  PUT") for line in lines)
    assert not any("Nobody but you" in line for line in lines)
    assert keys(seaweed, bucket) == set()


def test_a_site_is_not_served_as_a_registry(tmp_path: Path) -> None:
    person = Person.at(tmp_path / "person")
    write_layout(person.work / "layout", make_image(1, (300,)), "v1")
    assert person.types("publish", "oci:layout:v1", "--name", "app", "--to", tmp_path / "site").code == 0

    done = person.types("serve", "--store", tmp_path / "site", "--listen", "127.0.0.1:0")

    done.fails(1, "is a published site")
    assert not (tmp_path / "site" / "bucketry.json").exists()
