import io.grpc.ManagedChannelBuilder;
import io.grpc.StatusRuntimeException;
import java.util.concurrent.TimeUnit;
import wechat.store.v1.MapPoiServiceGrpc;
import wechat.store.v1.SearchMapPoisRequest;

/** Searches a place in the sandbox. README.md has the commands that build and run it. */
class FirstCall {
  public static void main(String[] arguments) {
    var channel = ManagedChannelBuilder.forAddress("127.0.0.1", 50051).usePlaintext().build();
    var places = MapPoiServiceGrpc.newBlockingStub(channel).withDeadlineAfter(10, TimeUnit.SECONDS);
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
}
