// Package plainpb has messages for tests, as protoc-gen-go generates them.
package plainpb

//go:generate go run -C ../../../../internal/tools ./protogen ../../contrib/gridpb/internal/plainpb plain.proto
