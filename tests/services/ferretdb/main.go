// A MongoDB-protocol server for tests: FerretDB on PostgreSQL, or on SQLite files.
//
//	ferretdb ADDRESS postgresql URL
//	ferretdb ADDRESS sqlite     FOLDER
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/FerretDB/FerretDB/ferretdb"
)

func main() {
	if len(os.Args) != 4 {
		fail("usage: ferretdb ADDRESS postgresql URL | ferretdb ADDRESS sqlite FOLDER")
	}
	address, handler, place := os.Args[1], os.Args[2], os.Args[3]
	config := &ferretdb.Config{
		Listener: ferretdb.ListenerConfig{TCP: address},
		Handler:  handler,
	}
	switch handler {
	case "postgresql":
		config.PostgreSQLURL = place
	case "sqlite":
		// It wants a URL of a folder, with the slash at its end.
		config.SQLiteURL = "file:" + strings.TrimSuffix(place, "/") + "/"
	default:
		fail("no such handler: " + handler)
	}
	server, err := ferretdb.New(config)
	if err != nil {
		fail(err.Error())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := server.Run(ctx); err != nil && ctx.Err() == nil {
		fail(err.Error())
	}
}

func fail(why string) {
	fmt.Fprintln(os.Stderr, "ferretdb:", why)
	os.Exit(1)
}
