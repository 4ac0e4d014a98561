// Protogen generates Go code from .proto files, as protoc does, with the plugins that are tools of
// this module. So nothing needs to be installed.
//
//	go run -C internal/tools ./protogen [-with plugin[=parameters]] ... folder file.proto ...
//
// The files are in the folder, which is where the code goes: that of protoc-gen-go, and that of each
// plugin it is generated with.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/linker"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

// pathsParameter has the code written beside the file.
const pathsParameter = "paths=source_relative"

func main() {
	log.SetFlags(0)
	log.SetPrefix("protogen: ")
	plugins := map[string]string{"protoc-gen-go": pathsParameter}
	flag.Func("with", "another `plugin`, with =parameters", func(s string) error {
		plugin, parameters, _ := strings.Cut(s, "=")
		plugins[plugin] = pathsParameter + "," + parameters
		return nil
	})
	flag.Parse()
	if flag.NArg() < 2 {
		log.Fatal("needs a folder and a file")
	}
	dir, names := flag.Arg(0), flag.Args()[1:]
	files, err := compile(dir, names)
	if err != nil {
		log.Fatal(err)
	}
	for plugin, parameter := range plugins {
		err := generate(dir, plugin, &pluginpb.CodeGeneratorRequest{
			FileToGenerate: names, Parameter: &parameter, ProtoFile: files,
		})
		if err != nil {
			log.Fatalf("%s: %v", plugin, err)
		}
	}
}

// compile returns the files and everything that they import, which comes first.
func compile(dir string, names []string) ([]*descriptorpb.FileDescriptorProto, error) {
	c := protocompile.Compiler{
		Resolver:       protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: []string{dir}}),
		SourceInfoMode: protocompile.SourceInfoStandard, // has the comments
	}
	compiled, err := c.Compile(context.Background(), names...)
	if err != nil {
		return nil, err
	}
	var all []*descriptorpb.FileDescriptorProto
	seen := make(map[string]bool)
	var add func(f protoreflect.FileDescriptor)
	add = func(f protoreflect.FileDescriptor) {
		if seen[f.Path()] {
			return
		}
		seen[f.Path()] = true
		for i := range f.Imports().Len() {
			add(f.Imports().Get(i).FileDescriptor)
		}
		if r, ok := f.(linker.Result); ok {
			all = append(all, r.FileDescriptorProto())
		} else {
			all = append(all, protodesc.ToFileDescriptorProto(f))
		}
	}
	for _, f := range compiled {
		add(f)
	}
	return all, nil
}

// generate writes what a plugin answers.
func generate(dir, plugin string, req *pluginpb.CodeGeneratorRequest) error {
	in, err := proto.Marshal(req)
	if err != nil {
		return err
	}
	cmd := exec.Command("go", "tool", plugin)
	cmd.Stdin = bytes.NewReader(in)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return err
	}
	var answer pluginpb.CodeGeneratorResponse
	if err := proto.Unmarshal(out, &answer); err != nil {
		return err
	}
	if answer.Error != nil {
		return errors.New(answer.GetError())
	}
	for _, f := range answer.GetFile() {
		name := filepath.Join(dir, filepath.FromSlash(f.GetName()))
		if err := os.WriteFile(name, []byte(f.GetContent()), 0o600); err != nil {
			return fmt.Errorf("write: %w", err)
		}
	}
	return nil
}
