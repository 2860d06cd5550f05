"""What was broken in other registries and clients has a test here, which this page finds by its name.

Where one is tested at several places, the first is the one that the whole program would fail, and the others are of its
parts.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

ADVISORIES: dict[str, tuple[str, ...]] = {
    # The server's
    "CVE-2017-11468: a manifest without end fills the memory": (
        "spec/test_hostile.py::test_cve_2017_11468_huge_manifest_is_refused_in_flat_memory",
        "unit/oci/test_manifest_refused.py::test_the_largest_manifest_is_taken_and_one_byte_more_is_not",
    ),
    "CVE-2023-2253: a huge n of the catalog reserves memory": (
        "spec/test_hostile.py::test_cve_2023_2253_huge_n_reserves_nothing",
    ),
    "CVE-2024-3727: digests and names that are paths": (
        "spec/test_hostile.py::test_cve_2024_3727_name_that_is_none_reaches_no_file",
        "spec/test_hostile.py::test_cve_2024_3727_digest_or_tag_that_is_none_reaches_no_file",
    ),
    "CVE-2024-39897: a stranger reads and mounts across repositories": (
        "spec/test_access_repositories.py::"
        "test_cve_2024_39897_a_stranger_reads_and_mounts_nothing_of_a_private_repository",
    ),
    "CVE-2025-23208: rights that were revoked go on": (
        "spec/test_access_ended.py",
        "spec/test_access_replicas.py",
        "unit/server/auth/test_rulebook.py",
    ),
    "CVE-2025-24976: a token brings the key that it is verified by": (
        "spec/test_access_tokens.py::test_cve_2025_24976_no_token_brings_the_key_that_it_is_verified_by",
        "spec/test_access_tokens.py::test_cve_2025_24976_no_id_token_brings_the_key_that_it_is_verified_by",
        "unit/server/auth/test_tokens.py::test_none_of_the_keys_that_a_header_brings_along_is_used_cve_2025_24976",
        "unit/server/auth/test_oidc.py::test_keys_that_a_token_brings_along_are_never_looked_at_cve_2025_24976",
        "unit/server/auth/test_external.py::test_only_the_keys_of_the_service_count_cve_2025_24976",
    ),
    "CVE-2025-48374: secrets in logs": (
        "spec/test_access_secrets.py::test_cve_2025_48374_no_secret_is_in_logs_metrics_and_errors",
        "spec/test_health.py",
        "unit/server/test_log.py",
    ),
    "CVE-2025-62727: a Range header that costs quadratic time": (
        "spec/test_hostile.py::test_cve_2025_62727_thousands_of_ranges_cost_no_quadratic_time",
    ),
    "CVE-2026-31801: who may create may overwrite": (
        "spec/test_access_tags.py::test_cve_2026_31801_who_may_create_and_not_overwrite_moves_no_tag",
        "spec/test_access_tags.py::test_cve_2026_31801_of_many_who_create_a_tag_at_once_one_has_it",
    ),
    "CVE-2026-32589: an upload session of somebody else, or of another repository": (
        "spec/test_access_repositories.py::test_cve_2026_32589_an_upload_is_of_who_began_it_where_it_was_begun",
        "spec/test_access_ended.py::test_cve_2026_32589_jobs_of_one_issuer_have_uploads_of_their_own",
        "spec/test_hostile.py::test_cve_2026_32589_session_of_another_repository_is_unknown",
    ),
    "CVE-2026-35172: what was deleted in one repository comes back by another": (
        "spec/test_access_repositories.py::"
        "test_cve_2026_35172_what_was_deleted_in_a_and_is_read_in_b_stays_deleted_in_a",
        "spec/test_hostile.py::test_cve_2026_35172_blob_deleted_in_one_stays_deleted_whoever_reads_it_elsewhere",
    ),
    "CVE-2026-41888: deletes that are disabled, by another method": (
        "spec/test_access_tags.py::test_cve_2026_41888_where_nothing_is_deleted_no_method_deletes",
        "spec/test_hostile.py::test_cve_2026_41888_delete_that_is_disabled_is_so_on_every_method",
    ),
    "GHSA-qq97-vm5h-rrhg: a manifest that is an image and an index": (
        "spec/test_hostile.py::test_ghsa_qq97_vm5h_rrhg_manifest_of_both_kinds_is_refused",
        "unit/oci/test_manifest_refused.py::test_an_image_that_is_also_an_index_is_refused",
    ),
    "immutable tags, and deletes by digest": (
        "spec/test_access_tags.py::test_immutable_tag_is_neither_moved_nor_deleted_by_any_way_and_anybody",
        "spec/test_access_tags.py::test_delete_by_digest_against_pushes_of_an_immutable_tag",
    ),
    "slow headers": (
        "spec/test_limits.py::test_slow_headers_are_cut_off",
        "spec/test_limits.py::test_headers_that_trickle_are_cut_off",
    ),
    "slow bodies": (
        "spec/test_limits.py::test_body_that_trickles_is_cut_off",
        "spec/test_access_excess.py::test_bodies_to_the_token_service_that_stall_or_trickle_are_cut_off",
        "unit/server/test_body.py::test_client_that_falls_silent_is_cut_off_and_not_waited_for_again",
    ),
    # The client's
    "CVE-2020-15157: credentials after a redirect, or to a foreign host": (
        "unit/transfer/remote/test_hostile.py::test_a_redirect_to_another_host_goes_without_credentials",
        "unit/transfer/remote/test_hostile.py::test_the_challenge_of_another_host_is_not_answered",
    ),
    "CVE-2026-33540: the realm of an attacker gets credentials": (
        "unit/transfer/remote/test_hostile.py::test_a_token_service_that_must_not_be_gets_nothing",
        "unit/transfer/remote/test_auth.py::test_who_may_be_a_token_service",
    ),
    "CVE-2026-50151: a foreign Location of an upload gets credentials": (
        "unit/transfer/remote/test_hostile.py::test_a_foreign_location_gets_the_upload_without_credentials",
        "unit/transfer/remote/test_hostile.py::test_a_foreign_location_that_wants_credentials_gets_none",
    ),
    "CVE-2026-50162: archives with .., absolute names and links that lead out": (
        "unit/transfer/local/test_tar.py::test_what_is_hostile_is_refused",
        "unit/transfer/local/test_layout.py::test_a_hostile_archive_is_refused",
    ),
    "pulled bytes are not those of the digest": (
        "unit/transfer/remote/test_hostile.py::test_a_manifest_of_another_digest_is_refused_whatever_its_header_says",
        "transfer/test_remote_registry.py::test_other_bytes_are_refused_and_never_seen",
    ),
}


@cache
def functions(file: str) -> dict[str, str]:
    """Names and texts of a file's tests, those in classes as well."""
    source = (TESTS / file).read_text()
    return {
        node.name: ast.get_source_segment(source, node) or ""
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


@pytest.mark.parametrize("what", ADVISORIES, ids=lambda what: what.partition(":")[0].replace(" ", "-"))
def test_an_advisory_has_its_tests(what: str) -> None:
    """A file without a name of a test says the number of the advisory."""
    number = what.partition(":")[0]
    for place in ADVISORIES[what]:
        file, _, name = place.partition("::")
        assert functions(file), place
        if name:
            assert name in functions(file), place
        else:
            assert number in (TESTS / file).read_text(), place
