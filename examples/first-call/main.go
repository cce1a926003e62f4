// Searches a place in the sandbox. README.md has the commands that build and run it.
package main

import (
	"context"
	_ "embed"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	storev1 "github.com/wechat-store-gateway/wechat-store-gateway/gen/go/wechat/store/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health" // for the health of several addresses
)

// The calls that the library repeats after a failure. docs/calls.md describes them.
//
//go:embed service_config.json
var serviceConfig string

func main() {
	options, err := identity()
	if err != nil {
		log.Fatal(err)
	}
	options = append(options, grpc.WithDefaultServiceConfig(serviceConfig))
	channel, err := grpc.NewClient("127.0.0.1:50051", options...)
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

// identity returns the options of a channel without TLS, or of one with the CA and the token of the environment.
func identity() ([]grpc.DialOption, error) {
	ca := os.Getenv("WECHAT_STORE_GATEWAY_CA_FILE")
	if ca == "" {
		return []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}, nil
	}
	tls, err := credentials.NewClientTLSFromFile(ca, "")
	token := bearer(os.Getenv("WECHAT_STORE_GATEWAY_TOKEN_FILE"))
	return []grpc.DialOption{grpc.WithTransportCredentials(tls), grpc.WithPerRPCCredentials(token)}, err
}

// bearer is the file of a token. It is read for each call, so a replaced token needs no restart.
type bearer string

func (file bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	token, err := os.ReadFile(string(file))
	return map[string]string{"authorization": "Bearer " + strings.TrimSpace(string(token))}, err
}

func (bearer) RequireTransportSecurity() bool { return true }
