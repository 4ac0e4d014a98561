// Package testpb has a service for tests, with a method of each kind.
package testpb

//go:generate go run -C ../../../../internal/tools ./protogen -with protoc-gen-go-drpc ../../contrib/griddrpc/internal/testpb test.proto
