"""Shows mypy that the package has types."""

from wechat_store_gateway import FileCursorStore, InvalidArgumentError, connect, v1


def add(license_number: str) -> v1.Submission:
    with connect("gateway.internal:50051", ca_file="ca.pem", token_file="token") as gateway:
        try:
            return gateway.store.add_store(v1.AddStoreRequest(license_number=license_number), timeout=60).submission
        except InvalidArgumentError as error:
            raise SystemExit(", ".join(violation.field for violation in error.field_violations)) from error


def follow() -> str:
    with connect("127.0.0.1:50051", plaintext=True) as gateway:
        for event in gateway.watch(FileCursorStore("progress"), kinds=[v1.SUBMISSION_KIND_STORE]):
            return event.store.poi_id
    return gateway.wait_for_review(v1.Submission()).poi_id
