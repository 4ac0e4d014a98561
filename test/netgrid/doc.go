// Package netgrid tests what others build on net.Conn and net.Listener over a grid: net/http, gRPC,
// yamux, and drivers of database/sql.
package netgrid
