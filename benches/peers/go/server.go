// GetStore by one request to the upstream: no validation, token, retry, limit, deadline, trace or log.
// server LISTEN UPSTREAM TOKEN
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log"
	"net"
	"net/http"
	"os"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/protobuf/proto"

	pb "naked-proxy/wechat"
)

// Debian's gRPC is older than its protobuf, and brings a codec for the one before.
type codec struct{}

func (codec) Name() string { return "proto" }

func (codec) Marshal(message interface{}) ([]byte, error) {
	return proto.Marshal(message.(proto.Message))
}

func (codec) Unmarshal(bytes []byte, message interface{}) error {
	return proto.Unmarshal(bytes, message.(proto.Message))
}

type server struct {
	pb.UnimplementedStoreServiceServer
	client *http.Client
	url    string
}

type reply struct {
	Business struct {
		BaseInfo struct {
			BusinessName      string  `json:"business_name"`
			Address           string  `json:"address"`
			Telephone         string  `json:"telephone"`
			City              string  `json:"city"`
			Province          string  `json:"province"`
			District          string  `json:"district"`
			Longitude         float64 `json:"longitude"`
			Latitude          float64 `json:"latitude"`
			OpenTime          string  `json:"open_time"`
			PoiID             string  `json:"poi_id"`
			Status            int32   `json:"status"`
			QualificationNum  string  `json:"qualification_num"`
			QualificationName string  `json:"qualification_name"`
			PhotoList         []struct {
				PhotoURL string `json:"photo_url"`
			} `json:"photo_list"`
		} `json:"base_info"`
	} `json:"business"`
}

func (s *server) GetStore(ctx context.Context, in *pb.GetStoreRequest) (*pb.GetStoreResponse, error) {
	body, err := json.Marshal(struct {
		PoiID string `json:"poi_id"`
	}{in.PoiId})
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, "POST", s.url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("content-type", "application/json")
	response, err := s.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	var answer reply
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return nil, err
	}
	info := &answer.Business.BaseInfo
	hours := strings.SplitN(info.OpenTime+"-", "-", 3)
	state := pb.AuditState_AUDIT_STATE_APPROVED
	if info.Status == 2 {
		state = pb.AuditState_AUDIT_STATE_IN_REVIEW
	}
	pictures := make([]string, 0, len(info.PhotoList))
	for _, photo := range info.PhotoList {
		pictures = append(pictures, photo.PhotoURL)
	}
	return &pb.GetStoreResponse{Store: &pb.Store{
		PoiId: info.PoiID, Name: info.BusinessName, Province: info.Province, City: info.City,
		District: info.District, Address: info.Address,
		Location:     &pb.LatLng{Latitude: info.Latitude, Longitude: info.Longitude},
		ContactPhone: info.Telephone,
		Hours:        &pb.OpeningHours{Open: hours[0], Close: hours[1], Text: info.OpenTime},
		PictureUrls:  pictures, LicenseNumber: info.QualificationNum,
		CompanyName: info.QualificationName, State: state, WechatStatus: info.Status,
	}}, nil
}

func main() {
	encoding.RegisterCodec(codec{})
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	transport := &http.Transport{MaxIdleConns: 128, MaxIdleConnsPerHost: 128}
	store := &server{
		client: &http.Client{Transport: transport},
		url:    os.Args[2] + "/wxa/get_store_info?access_token=" + os.Args[3],
	}
	service := grpc.NewServer()
	pb.RegisterStoreServiceServer(service, store)
	log.Fatal(service.Serve(listener))
}
