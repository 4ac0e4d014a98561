// Package netgrid lets code that wants a net.Conn, a net.Listener, an io.Reader or an io.Writer use
// the connections of a grid: net/http, gRPC, raft, drivers of database/sql and whatever else takes a
// dialer, without a port of its own.
//
//	l, err := netgrid.Listen(m, "raft") // on one node
//	c, err := netgrid.Dial(ctx, conn, "raft") // on another
//
// Upload and Download move a file, or anything else of any size, and check that it has arrived as it
// was. What a broken connection has left can be resumed.
//
//	err := netgrid.HandleUpload(m, "snapshots.Put", func(ctx context.Context, in *netgrid.Incoming) error { … })
//	err := netgrid.Upload(ctx, conn, "snapshots.Put", []byte("42"), file)
//
// All of it are streams of the grid, to methods with the names that are given, in messages of at
// most 256 KiB: they have the grid's backpressure, priorities, limits and statistics, and other calls
// go on beside them. Both nodes must be of this project: they are asked for half-closed streams,
// which the original has not.
package netgrid
