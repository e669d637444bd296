// A receipt through Tillroll with go-redis.
//
//	go run receipt.go redis://127.0.0.1:6379
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	prefix = "tillroll:{receipts}:"
	wait   = 30 * time.Second
	html   = "<meta charset=utf-8><h1>Receipt</h1><p>2 × coffee <b>€ 7.00</b></p>"
)

func main() {
	options, err := redis.ParseURL(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	// go-redis adds a blocking command's wait to its own read timeout.
	client := redis.NewClient(options)
	ctx := context.Background()

	// An id of your own lets you wait for the reply, and push again safely.
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		log.Fatal(err)
	}
	job := map[string]any{
		"id": "r-" + hex.EncodeToString(id), "tenant": "cafe",
		"options": map[string]any{"paper": "80mm"},
	}
	header, err := json.Marshal(job)
	if err != nil {
		log.Fatal(err)
	}
	element := append(append(header, '\n'), html...)
	if err := client.LPush(ctx, prefix+"in", element).Err(); err != nil {
		log.Fatal(err)
	}

	// Go's strings are bytes: the PDF arrives as it is.
	taken, err := client.BLPop(ctx, wait, fmt.Sprintf("%sreply:%s/%s", prefix, job["tenant"], job["id"])).Result()
	if err != nil {
		log.Fatal(err) // redis.Nil: no reply in time; is a worker running?
	}
	line, pdf, _ := bytes.Cut([]byte(taken[1]), []byte("\n"))
	var reply struct {
		Status string
		Pages  int
	}
	if err := json.Unmarshal(line, &reply); err != nil {
		log.Fatal(err)
	}
	if reply.Status != "done" || !bytes.HasPrefix(pdf, []byte("%PDF-")) {
		log.Fatalf("%s", line)
	}
	fmt.Printf("%d page, %d bytes\n", reply.Pages, len(pdf))
}
