"""What the schema test knows beyond the description.

`application/wasm` is sent and read as bytes. A valid document that is refused must have a code that
a schema could not have foreseen: `CODES` has them all, and any other is a finding.
"""

import json
import re

import schemathesis
from schemathesis import GenerationMode

CODES = {
    # A text has a grammar of its own: regular expressions, paths into JSON, addresses, URLs, headers.
    # Their lengths are counted in bytes, those of a schema in characters.
    "invalid_regex",
    "pattern_matches_empty",
    "pattern_never_matches",
    "pattern_too_long",
    "invalid_keyword",
    "keywords_too_large",
    "invalid_path",
    "invalid_field",
    "invalid_fields",
    "invalid_key",
    "ambiguous_key",
    "invalid_suffix",
    "invalid_allow",
    "allow_too_long",
    "value_too_long",
    "replacement_is_detected",
    "invalid_address",
    "invalid_url",
    "credentials_in_url",
    "invalid_header",
    "invalid_secret",
    "literal_secret",
    # Fields that exclude one another, or that need another one.
    "conflicting_params",
    "missing_param",
    "leaking_on_error",
    "invalid_except",
    "always_true",
    "contradictory_conditions",
    "ambiguous_batch_size",
    "missing_batch_size",
    "invalid_tls",
    "invalid_proxy",
    "duplicate_header",
    "reserved_header",
    # The id of a path and that of a body, the ids of a list, and names that are reserved.
    "id_mismatch",
    "duplicate_id",
    "invalid_id",
    # What is on this machine, and what the gate was started with.
    "unknown_module",
    "unreadable_key",
    "unreadable_secret",
    "forbidden_secret",
    "forbidden_address",
    "no_spool_folder",
    # A size that is written as a text, such as `7GiB`.
    "out_of_range",
    # Any bytes are a module, for a schema.
    "not_wasm",
    "invalid_module",
    # The limits of the whole config.
    "too_many",
    "too_many_modules",
    "config_too_large",
}


@schemathesis.serializer("application/wasm")
def wasm(ctx, value):
    return value if isinstance(value, bytes) else str(value).encode()


@schemathesis.deserializer("application/wasm")
def wasm_code(ctx, response):
    return response.content.decode("latin-1")


@schemathesis.check
def refusal_is_beyond_a_schema(ctx, response, case):
    """A document that fits its schema is refused only for what a schema cannot say."""
    if response.status_code != 422 or case.meta is None:
        return
    if case.meta.generation.mode == GenerationMode.POSITIVE:
        problem = response.json()
        # For JSON Schema, `2.0` is an integer; the gate wants `2`.
        if re.search(r"[:,\[]\s*-?\d+\.0[,}\]\s]", json.dumps(case.body, default=str)):
            return
        assert problem["code"] in CODES, f"refused a valid request: {problem}"
