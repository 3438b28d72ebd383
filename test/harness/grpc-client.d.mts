import type {
  CallOptions,
  ChannelCredentials,
  Client,
  ClientOptions,
  ClientReadableStream,
  ClientUnaryCall,
  Metadata,
  ServiceError,
} from "@grpc/grpc-js";

interface Codec {
  decode(bytes: Uint8Array): unknown;
}

interface Service {
  readonly fullName: string;
  readonly methods: Record<
    string,
    { readonly requestType: Codec; readonly responseType: Codec; readonly responseStream: boolean }
  >;
}

type MessageOf<T extends Codec> = ReturnType<T["decode"]>;
type Done<Response> = (err: ServiceError | null, response: Response) => void;

interface Unary<Request, Response> {
  (request: Request, done: Done<Response>): ClientUnaryCall;
  (request: Request, metadata: Metadata, options: CallOptions, done: Done<Response>): ClientUnaryCall;
}

export type ClientOf<S extends Service> = Client & {
  [M in keyof S["methods"]]: S["methods"][M]["responseStream"] extends true
    ? (
        request: MessageOf<S["methods"][M]["requestType"]>,
      ) => ClientReadableStream<MessageOf<S["methods"][M]["responseType"]>>
    : Unary<MessageOf<S["methods"][M]["requestType"]>, MessageOf<S["methods"][M]["responseType"]>>;
};

export declare function clientOf<const S extends Service>(
  service: S,
): (new (
  address: string,
  credentials: ChannelCredentials,
  options?: ClientOptions,
) => ClientOf<S>) & {
  readonly service: Readonly<Record<string, unknown>>;
};
