// Command cluster is a node of a cluster that has everything: mutual TLS, tokens, metrics, traces,
// a status page and health probes. It greets the other nodes once a second. See README.md.
package main

import (
	"context"
	"flag"
	"log"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"go.opentelemetry.io/otel/exporters/stdout/stdouttrace"
)

func main() {
	local := flag.String("local", "", "name of this node, a base `URL`: https://host:port")
	hosts := flag.String("hosts", "", "names of all nodes, with commas in between: `URL,...`")
	dir := flag.String("dir", "secrets", "`directory` with the certificates and the secret")
	ops := flag.String("ops", "", "`address` for metrics, probes and the status page")
	prepare := flag.Bool("prepare", false, "write certificates and a secret for -hosts to -dir, to try it out, and end")
	force := flag.Bool("force", false, "with -prepare, replace the secrets that -dir has; all nodes have to be started again")
	flag.Parse()
	names := strings.Split(*hosts, ",")
	if *prepare {
		if err := prepareSecrets(*dir, names, *force); err != nil {
			log.Fatal(err)
		}
		return
	}
	if *local == "" || *hosts == "" {
		flag.Usage()
		os.Exit(2)
	}
	spans, err := os.Create("traces-" + portOf(*local) + ".json")
	if err != nil {
		log.Fatal(err)
	}
	exporter, err := stdouttrace.New(stdouttrace.WithWriter(spans)) // in production: otlptracegrpc
	if err != nil {
		log.Fatal(err)
	}
	n, err := startNode(config{Local: *local, Hosts: names, Dir: *dir, Ops: *ops, Spans: exporter})
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	n.greetAll(ctx, time.Second)
	if err := n.stop(); err != nil {
		log.Print(err)
	}
}
