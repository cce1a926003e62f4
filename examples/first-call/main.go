// Searches a place in the sandbox. README.md has the commands that build and run it.
package main

import (
	"context"
	"fmt"
	"log"
	"time"

	storev1 "github.com/wechat-store-gateway/wechat-store-gateway/gen/go/wechat/store/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func main() {
	channel, err := grpc.NewClient("127.0.0.1:50051", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer channel.Close()
	places := storev1.NewMapPoiServiceClient(channel)

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	request := &storev1.SearchMapPoisRequest{DistrictId: "440105", Keyword: "X-MAX"}
	response, err := places.SearchMapPois(ctx, request)
	if err != nil {
		log.Fatal(err)
	}
	for _, poi := range response.Pois {
		fmt.Println(poi.MapPoiId, poi.Name)
	}
}
