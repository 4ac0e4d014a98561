// Package vtpb has messages for tests, which also have the methods of vtprotobuf.
package vtpb

//go:generate go run -C ../../../../internal/tools ./protogen -with protoc-gen-go-vtproto=features=marshal+unmarshal+size ../../contrib/gridpb/internal/vtpb vt.proto
