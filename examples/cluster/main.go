// Command cluster is a node of a cluster that has everything: mutual TLS, tokens, metrics, traces,
// a status page and health probes. It greets the other nodes once a second, whose names are in a
// file that may change. See README.md.
package main

import (
	"context"
	"flag"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/gridmesh/grid/discovery"
	"go.opentelemetry.io/otel/exporters/stdout/stdouttrace"
)

func main() {
	local := flag.String("local", "", "name of this node, a base `URL`: https://host:port")
	hosts := flag.String("hosts", "", "`file` with the names of all nodes, one on each line, which may be replaced while nodes run")
	dir := flag.String("dir", "secrets", "`directory` with the certificates and the secret")
	ops := flag.String("ops", "", "`address` for metrics, probes and the status page")
	prepare := flag.Bool("prepare", false, "write certificates and a secret for -hosts to -dir, to try it out, and end")
	leave := flag.Duration("leave", time.Second, "how long to tell the others that this node is about to go, before it goes")
	force := flag.Bool("force", false, "with -prepare, replace the secrets that -dir has; all nodes have to be started again")
	flag.Parse()
	if *hosts == "" || *local == "" && !*prepare {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	source := discovery.File(*hosts)
	names, err := source.Find(ctx)
	if err != nil {
		log.Fatal(err)
	}
	if *prepare {
		if err := prepareSecrets(*dir, names, *force); err != nil {
			log.Fatal(err)
		}
		return
	}
	spans, err := os.Create("traces-" + portOf(*local) + ".json")
	if err != nil {
		log.Fatal(err)
	}
	exporter, err := stdouttrace.New(stdouttrace.WithWriter(spans)) // in production: otlptracegrpc
	if err != nil {
		log.Fatal(err)
	}
	n, err := startNode(config{Local: *local, Hosts: names, Source: source, Dir: *dir, Ops: *ops, Spans: exporter})
	if err != nil {
		log.Fatal(err)
	}
	n.greetAll(ctx, time.Second)
	n.Drain()
	time.Sleep(*leave)
	if err := n.stop(); err != nil {
		log.Print(err)
	}
}
