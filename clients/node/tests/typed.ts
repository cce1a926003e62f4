// Shows tsc that the package has types.
import { FileCursorStore, InvalidArgumentError, connect, type v1 } from "wechat-store-gateway";

export async function add(request: v1.AddStoreRequest): Promise<string | undefined> {
  const gateway = connect("gateway.internal:50051", { caFile: "ca.pem", tokenFile: "token" });
  try {
    const { submission } = await gateway.store.addStore(request, { timeoutMs: 60_000 });
    return submission?.auditId;
  } catch (error) {
    if (error instanceof InvalidArgumentError) return error.fieldViolations.map(({ field }) => field).join();
    throw error;
  } finally {
    gateway.close();
  }
}

export async function follow(signal: AbortSignal): Promise<string | undefined> {
  const gateway = connect("127.0.0.1:50051", { plaintext: true });
  for await (const event of gateway.watch(new FileCursorStore("progress"), { kinds: ["SUBMISSION_KIND_STORE"], signal })) {
    if (event.state === "AUDIT_STATE_APPROVED") return event.store?.poiId;
  }
  return undefined;
}

// @ts-expect-error: there is no such field.
export const wrong: v1.GetStoreRequest = { poi_id: "1" };
// @ts-expect-error: a call needs a request of its own type.
export const other = connect("127.0.0.1:50051").store.getStore({ keyword: "X" });
