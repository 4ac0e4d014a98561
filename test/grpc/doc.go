// Package grpc tests services whose .proto files are public, as their code was generated for gRPC,
// over a grid: with contrib/gridgrpc, and one end at a time with contrib/gridpb. Connect's code, which
// is made for HTTP, runs over contrib/netgrid.
package grpc
