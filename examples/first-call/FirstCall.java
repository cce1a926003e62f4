import com.google.gson.Gson;
import com.google.gson.reflect.TypeToken;
import io.grpc.CallCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.concurrent.Executor;
import java.util.concurrent.TimeUnit;
import wechat.store.v1.MapPoiServiceGrpc;
import wechat.store.v1.SearchMapPoisRequest;

/** Searches a place in the sandbox. README.md has the commands that build and run it. */
class FirstCall {
  public static void main(String[] arguments) throws IOException {
    // Without TLS, or with the CA and the token of the environment.
    var ca = System.getenv("WECHAT_STORE_GATEWAY_CA_FILE");
    var credentials =
        ca == null
            ? InsecureChannelCredentials.create()
            : TlsChannelCredentials.newBuilder().trustManager(new File(ca)).build();
    // The calls that the library repeats after a failure. docs/calls.md describes them.
    var config = Files.readString(Path.of("proto/service_config.json"));
    Map<String, ?> parsed = new Gson().fromJson(config, new TypeToken<Map<String, ?>>() {}.getType());
    var channel =
        Grpc.newChannelBuilder("127.0.0.1:50051", credentials).defaultServiceConfig(parsed).build();
    var places = MapPoiServiceGrpc.newBlockingStub(channel).withDeadlineAfter(10, TimeUnit.SECONDS);
    if (ca != null) {
      var token = Path.of(System.getenv("WECHAT_STORE_GATEWAY_TOKEN_FILE"));
      places = places.withCallCredentials(new Bearer(token));
    }
    var request = SearchMapPoisRequest.newBuilder().setDistrictId("440105").setKeyword("X-MAX").build();
    try {
      for (var poi : places.searchMapPois(request).getPoisList()) {
        System.out.println(poi.getMapPoiId() + " " + poi.getName());
      }
    } catch (StatusRuntimeException error) {
      System.err.println(error.getStatus());
      System.exit(1);
    } finally {
      channel.shutdown();
    }
  }

  /** Adds the token in a file. It is read for each call, so a replaced token needs no restart. */
  static class Bearer extends CallCredentials {
    private final Path file;

    Bearer(Path file) {
      this.file = file;
    }

    @Override
    public void applyRequestMetadata(RequestInfo info, Executor executor, MetadataApplier applier) {
      executor.execute(
          () -> {
            try {
              var metadata = new Metadata();
              var key = Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);
              metadata.put(key, "Bearer " + Files.readString(file).strip());
              applier.apply(metadata);
            } catch (IOException error) {
              applier.fail(Status.UNAUTHENTICATED.withCause(error));
            }
          });
    }

    // Older versions of gRPC require it.
    public void thisUsesUnstableApi() {}
  }
}
