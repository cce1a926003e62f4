// The types of this package. `types/` has those of the contract, which are generated.
import type { MethodDefinition } from "@grpc/proto-loader";
import type * as v1 from "./types/v1";

export type { v1 };

/** The options of a call. */
export interface CallOptions {
  /** The milliseconds of all attempts together. The default is a minute, or two with a picture. */
  timeoutMs?: number;
  /** Cancels the call. */
  signal?: AbortSignal;
}

/** The calls of a service. Streams belong to `Gateway.watch`. */
export type Calls<Definition> = {
  [Method in keyof Definition as string extends Method
    ? never
    : number extends Method
      ? never
      : Method extends "WatchAuditEvents"
        ? never
        : Uncapitalize<Method & string>]: Definition[Method] extends MethodDefinition<infer Request, any, any, infer Response>
    ? (request: Request, options?: CallOptions) => Promise<Response>
    : never;
};

/** The options of a connection. */
export interface ConnectOptions {
  /** No TLS. Then no proof of identity is sent. */
  plaintext?: boolean;
  /** The CAs that the gateway's certificate must come from. Without it, those of the machine. */
  caFile?: string;
  /** A client certificate. */
  certificateFile?: string;
  /** The key of the client certificate. */
  keyFile?: string;
  /** The bearer token, or a function that returns it. */
  token?: string | (() => string | Promise<string>);
  /** A file with a bearer token. It is read for each call, so a replaced token needs no restart. */
  tokenFile?: string;
  /** Another service config than that of this package. */
  serviceConfig?: string;
}

/** The options of a watch. */
export interface WatchOptions {
  /** Only events of this account. */
  appId?: string;
  /** Only results of reviews of these kinds. */
  kinds?: v1.SubmissionKind[];
  /** Where to begin if the store has no cursor. The default is the oldest event. */
  position?: v1.WatchPosition;
  /** Ends the watch with a `CancelledError`. */
  signal?: AbortSignal;
}

/** Returns a connection to the gateway at this address, such as `gateway.internal:50051`. Throws if the options
 * contradict each other, or if a file cannot be read. */
export function connect(address: string, options?: ConnectOptions): Gateway;

/** A connection to a gateway. `store`, `mapPoi` and the others are its services. */
export class Gateway {
  private constructor();
  readonly account: Calls<v1.AccountServiceDefinition>;
  readonly audit: Calls<v1.AuditServiceDefinition>;
  readonly card: Calls<v1.CardServiceDefinition>;
  readonly mapPoi: Calls<v1.MapPoiServiceDefinition>;
  readonly media: Calls<v1.MediaServiceDefinition>;
  readonly merchant: Calls<v1.MerchantServiceDefinition>;
  readonly nearby: Calls<v1.NearbyServiceDefinition>;
  readonly store: Calls<v1.StoreServiceDefinition>;
  readonly token: Calls<v1.TokenServiceDefinition>;
  readonly write: Calls<v1.WriteServiceDefinition>;

  /** Yields review results without an end, from the cursor in the store. An event is stored when the loop requests the
   * next one. An interruption does not end the loop. Throws a `GatewayError` if the watch cannot continue. */
  watch(cursors: CursorStore, options?: WatchOptions): AsyncGenerator<v1.AuditEvent__Output, void, void>;

  /** Returns the submission when WeChat has decided its review, which can take days. Throws a `DeadlineExceededError` if
   * the timeout is over, and a `NotFoundError` if the gateway has no such submission. */
  waitForReview(submission: v1.Submission__Output, options?: CallOptions): Promise<v1.Submission__Output>;

  /** Closes the connection. Calls in progress fail with a `CancelledError`. */
  close(): void;
}

/** The progress of one watch. Use your own database if you have one: store the id beside your data. */
export interface CursorStore {
  /** Returns the newest stored cursor. Empty if there is none. */
  load(): string | Promise<string>;
  /** Returns true if this event was stored. */
  contains(eventId: string): boolean | Promise<boolean>;
  /** Stores a cursor and the event that was handled. An empty text leaves the stored one as it is. */
  save(cursor: string, eventId?: string): void | Promise<void>;
}

/** Progress that ends with the process. */
export class MemoryCursorStore implements CursorStore {
  load(): string;
  contains(eventId: string): boolean;
  save(cursor: string, eventId?: string): void;
}

/** Progress in a file. Only one process may use a file at a time. */
export class FileCursorStore implements CursorStore {
  constructor(file: string);
  load(): Promise<string>;
  contains(eventId: string): boolean;
  save(cursor: string, eventId?: string): Promise<void>;
  close(): Promise<void>;
}

/** A wrong field of a request. */
export interface FieldViolation {
  field: string;
  /** A description of a valid value. */
  description: string;
}

/** A failed call. There is a subclass for each code of gRPC. */
export class GatewayError extends Error {
  /** The code of gRPC, such as `NOT_FOUND`. */
  readonly code: string;
  /** The name of an `ErrorReason`, such as `STORE_NOT_FOUND`. Empty if the gateway did not send the error. */
  readonly reason: string;
  /** The role that can fix the cause: `caller`, `operator`, `merchant`, `developer` or `wait`. */
  readonly fixBy: string;
  /** The message in Chinese. Empty if there is none. */
  readonly localizedMessage: string;
  /** The other facts, such as `errcode`, `errmsg` and `rid` of WeChat. */
  readonly metadata: Record<string, string>;
  /** The wrong fields of an invalid request. */
  readonly fieldViolations: FieldViolation[];
  /** The milliseconds to wait before a repeat. Undefined if the gateway names no time. */
  readonly retryAfterMs: number | undefined;
  /** The id of the call in the gateway's log. */
  readonly traceId: string;
  /** The `requestId` of the failed write. A repeat of the write must have the same one. */
  readonly requestId: string;
}

export class AbortedError extends GatewayError {}
export class AlreadyExistsError extends GatewayError {}
export class CancelledError extends GatewayError {}
export class DataLossError extends GatewayError {}
export class DeadlineExceededError extends GatewayError {}
export class FailedPreconditionError extends GatewayError {}
export class InternalError extends GatewayError {}
export class InvalidArgumentError extends GatewayError {}
export class NotFoundError extends GatewayError {}
export class OutOfRangeError extends GatewayError {}
export class PermissionDeniedError extends GatewayError {}
export class ResourceExhaustedError extends GatewayError {}
export class UnauthenticatedError extends GatewayError {}
export class UnavailableError extends GatewayError {}
export class UnimplementedError extends GatewayError {}
export class UnknownError extends GatewayError {}
