package main

import (
	"fmt"

	"github.com/gridmesh/grid/cmd/gridctl/internal/soak"
)

const usage = `gridctl shows what package grid does, runs nodes, measures and tests them.

Usage:

  gridctl demo      four nodes in one process that call each other; the place to start
  gridctl node      run one node of a grid
  gridctl top       show what the nodes of a grid do, and which are slow, failing or silent
  gridctl doctor    find out what keeps the nodes of a grid from each other, and say what to do
  gridctl call      call a handler of a running node, or list its handlers
  gridctl tap       watch the calls of running nodes as they end
  gridctl dump      print what nodes say to each other, from a capture of packets
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
each other, stream, lose a connection and get it back, are joined by a fifth that leaves
again, and are measured. It takes about five seconds. With -http the nodes go on, and each
has a status page to look at: gridctl demo -http localhost:8080

Usage: gridctl demo [flags]

` + flagList(new(demoConfig).flags())
}

func nodeUsage() string {
	return fmt.Sprintf(`gridctl node runs one node of a grid until it is sent SIGTERM or SIGINT (Ctrl-C). What
runs may then finish for %v; a second signal ends it at once. Its handlers are
echo (%d), which answers with what it is sent, sink (%d), a stream that counts what it is
sent, and source (%d), a stream that sends as many messages as it is asked for.

Usage: gridctl node -local URL -hosts URL,URL,... [flags]
       gridctl node -local NAME -join URL,URL,... [flags]

Example: gridctl node -local http://127.0.0.1:9001 -hosts http://127.0.0.1:9001,http://127.0.0.1:9002

`, shutdownTime, handlerEcho, handlerSink, handlerSource) + flagList(new(nodeConfig).flags())
}

func doctorUsage() string {
	return `gridctl doctor looks for what keeps a node and the others of its grid from each other: the
name, the network, TLS, the proxy on the way, the secret, the handshake. It takes the flags of the
node, runs where the node runs, whether or not that is running, and prints a line for each thing that
it finds, with what to do. It exits with 0 if all nodes are well, and with 1 if not.

It connects to each node for a moment: as a guest where guests are accepted, and otherwise under the
name of -local, which gives way to a node that is connected under that name. The logs there have a line
about it. Where nodes offer "debugz.Cluster", as gridctl node does, it also asks each of them for its
connections to the others.

Usage: gridctl doctor -local URL -hosts URL,URL,... [flags]
       gridctl doctor -local NAME -join URL,URL,... [flags]

Example: gridctl doctor -local http://127.0.0.1:9001 -hosts http://127.0.0.1:9001,http://127.0.0.1:9002

` + flagList(new(doctorConfig).flags())
}

func callUsage() string {
	return `gridctl call calls a handler of a running node, by its name or its number, and prints the
answer on standard output. Errors, and what -v adds, go to standard error. -list lists the handlers
of a node that tells them (debugz.RegisterTools; gridctl node with -tools).

It comes as a guest, if the node accepts guests (ManagerOptions.AcceptGuest; gridctl node with
-accept-guests). Otherwise it has to be one of the hosts that every node knows, and that is not running:
with -local URL and -hosts, as gridctl bench. An entry in the hosts that is kept for such work will do.

Usage: gridctl call -to URL [flags] HANDLER [BODY]
       gridctl call -to URL -list

Examples: gridctl call -to http://127.0.0.1:9001 echo hello
          gridctl call -to http://127.0.0.1:9001 -format msgp -H "user: anna" kv.Get '{"Key": "a"}'
          gridctl call -to http://127.0.0.1:9001 -stream kv.Watch
          gridctl call -to http://127.0.0.1:9001 -stream -subroute disks/sda -in-capacity 0 131

` + flagList(new(callConfig).flags())
}

func tapUsage() string {
	return `gridctl tap prints the calls of nodes as they end, one in each line, until it is ended with Ctrl-C:
those that a node has made (node -> peer) and those that its handlers have served (node <- peer), with
how long they took, the bytes of their payloads, and how they ended. Of a stream that a node has opened
that is how long opening it took, of one that it has served until its end.

The nodes have to offer this (debugz.RegisterTools; gridctl node with -tools): traces show who calls
what, and the texts of errors. Who may ask is up to them: only hosts, unless they say otherwise.
gridctl tap comes as a guest or a host, as gridctl call does. Nodes choose the calls to send; those
that were too many are counted.

Usage: gridctl tap -to URL,URL,... [flags]

Example: gridctl tap -to http://127.0.0.1:9001 -handler 'kv.*' -slower 10ms

` + flagList(new(tapConfig).flags())
}

func dumpUsage() string {
	return `gridctl dump prints what nodes say to each other, from a capture of their packets: a line for each
message, with its time, the operation, the mux, the handler, flags, the size of the payload, and what
else is worth a look. The capture may begin anywhere and lack packets. Other connections are left out.
TLS cannot be read.

With -listen and -to it stands in front of a node, passes everything on, and prints that as it happens:
have the node listen on another port, and this on that of its name. It sees the connections that others
open to the node, and those of its guests, not those that the node opens.

Usage: gridctl dump [flags] FILE
       gridctl dump [flags] -listen ADDRESS -to ADDRESS

Examples: tcpdump -i any -s 0 -w grid.pcap port 9001
          gridctl dump -names kv.Get,kv.Put grid.pcap
          tcpdump -i any -s 0 -U -w - port 9001 | gridctl dump -
          gridctl dump -listen :9001 -to 127.0.0.1:19001

` + flagList(new(dumpConfig).flags())
}

func benchUsage() string {
	return fmt.Sprintf(`gridctl bench joins a grid as one of its nodes, calls all the others at the same time,
and prints how that went. Every node, this one too, must be in the -hosts of all. Nodes that are
not there within -wait are named, with the reason, and left out; it exits with 1 then.

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
