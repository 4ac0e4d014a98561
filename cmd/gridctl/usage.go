package main

import (
	"fmt"

	"github.com/gridmesh/grid/internal/soak"
)

const usage = `gridctl shows what package grid does, runs nodes, measures and tests them.

Usage:

  gridctl demo      four nodes in one process that call each other; the place to start
  gridctl node      run one node of a grid
  gridctl bench     join a grid and measure calls to its other nodes
  gridctl soak      put random load on nodes in one process, cut their connections, check what is promised
  gridctl version   print what this program was built from
  gridctl help      print this, or with a command behind it the command's flags

A grid of two nodes and a measurement, in three terminals:

  HOSTS=http://127.0.0.1:9001,http://127.0.0.1:9002,http://127.0.0.1:9003
  gridctl node  -local http://127.0.0.1:9001 -hosts $HOSTS
  gridctl node  -local http://127.0.0.1:9002 -hosts $HOSTS
  gridctl bench -local http://127.0.0.1:9003 -hosts $HOSTS

Exit codes: 0 all went well, 1 something failed while it ran, 2 called wrongly or could not start.
`

const versionUsage = `gridctl version prints what this program was built from. It takes no flags.
`

func demoUsage() string {
	return `gridctl demo runs four nodes in one process, on free ports of 127.0.0.1. They call
each other, stream, lose a connection and get it back, and are measured. It takes
about five seconds. With -http the nodes go on, and each has a status page to look at:
gridctl demo -http localhost:8080

Usage: gridctl demo [flags]

` + flagList(new(demoConfig).flags())
}

func nodeUsage() string {
	return fmt.Sprintf(`gridctl node runs one node of a grid until it is sent SIGTERM or SIGINT (Ctrl-C). What
runs may then finish for %v; a second signal ends it at once. Its handlers are
echo (%d), which answers with what it is sent, sink (%d), a stream that counts what it is
sent, and source (%d), a stream that sends as many messages as it is asked for.

Usage: gridctl node -local URL -hosts URL,URL,... [flags]

Example: gridctl node -local http://127.0.0.1:9001 -hosts http://127.0.0.1:9001,http://127.0.0.1:9002

`, shutdownTime, handlerEcho, handlerSink, handlerSource) + flagList(new(nodeConfig).flags())
}

func benchUsage() string {
	return fmt.Sprintf(`gridctl bench joins a grid as one of its nodes, calls all the others at the same time,
and prints how that went. Every node, this one too, must be in the -hosts of all.

Usage: gridctl bench -local URL -hosts URL,URL,... [flags]

Example: gridctl bench -local http://127.0.0.1:9003 -hosts http://127.0.0.1:9001,http://127.0.0.1:9003 -op echo

What is measured, by -op:
  echo    a call is one request, which is answered with what it sent
  sink    a call is one message up a stream that stays open, until its receipt is back;
          each caller is up to %d messages ahead
  source  a call is one stream, opened to receive %d messages, until its end

MB/s counts payload bytes once: an echo's answer is not added. 1 MB is 1,000,000 bytes.

`, streamWindow, sourceMessages) + flagList(new(benchConfig).flags())
}

func soakUsage() string {
	return fmt.Sprintf(`gridctl soak runs nodes in one process, each two over a TCP proxy, with calls of every kind
between them. Meanwhile it cuts, holds up and slows down their connections, and restarts
nodes. It checks for each call that it returns in time, with the right answer or an error
that has a cause, that its handler runs once at the most, and that streams are whole and in
order; and at the end that no call, handler or goroutine is left and that the heap has grown by
at most %s. The last quarter of the time it calls a node in a process of its own, on two cores,
whose handlers compute: it may lose no connection and fail no call, and the longest call may take
%d times as long as the longest one of net/rpc to the same process at the same time. It ends early,
with its results, when it is interrupted.

Usage: gridctl soak [flags]

`, mib(soak.HeapBound), soak.BusyRatio) + flagList(new(soakConfig).flags())
}
