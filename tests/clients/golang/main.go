// Reads from a StockPulse server with Alpaca's library for Go, and prints what it got, one JSON object on a line.
package main

import (
	"context"
	"encoding/json"
	"os"
	"time"

	"github.com/alpacahq/alpaca-trade-api-go/v3/marketdata"
	"github.com/alpacahq/alpaca-trade-api-go/v3/marketdata/stream"
)

func main() {
	url, symbols := os.Args[1], []string{"AAPL", "MSFT", "TSLA"}
	start, err := time.Parse(time.RFC3339, os.Args[2])
	check(err)
	read(url, symbols, start)
	listen(url, os.Args[3])
}

func read(url string, symbols []string, start time.Time) {
	client := marketdata.NewClient(marketdata.ClientOpts{APIKey: "key", APISecret: "secret", BaseURL: url})
	bars, err := client.GetMultiBars(symbols, marketdata.GetBarsRequest{TimeFrame: marketdata.OneMin, Start: start})
	check(err)
	trades, err := client.GetMultiTrades(symbols, marketdata.GetTradesRequest{Start: start, End: start.Add(10 * time.Minute)})
	check(err)
	latest, err := client.GetLatestTrades(symbols, marketdata.GetLatestTradeRequest{})
	check(err)
	snapshots, err := client.GetSnapshots(symbols, marketdata.GetSnapshotRequest{})
	check(err)
	quotes, err := client.GetMultiQuotes(symbols, marketdata.GetQuotesRequest{Start: start})
	check(err)
	print(map[string]any{"bars": bars, "trades": trades, "latest": latest, "snapshots": snapshots, "quotes": quotes})
}

func listen(url, symbol string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	received := make(chan map[string]any, 100)
	of := func(kind string) func(stream.Bar) {
		return func(bar stream.Bar) { received <- map[string]any{"kind": kind, "row": bar} }
	}
	client := stream.NewStocksClient(
		marketdata.IEX,
		stream.WithBaseURL(url+"/v2"),
		stream.WithCredentials("key", "secret"),
		stream.WithTrades(func(trade stream.Trade) { received <- map[string]any{"kind": "trade", "row": trade} }, symbol),
		stream.WithBars(of("bar"), symbol),
		stream.WithUpdatedBars(of("updated"), symbol),
		stream.WithDailyBars(of("daily"), symbol),
	)
	check(client.Connect(ctx))
	print(map[string]any{"kind": "subscribed"})
	for kinds := map[any]bool{}; len(kinds) < 4; {
		select {
		case message := <-received:
			kinds[message["kind"]] = true
			print(message)
		case err := <-client.Terminated():
			check(err)
		case <-ctx.Done():
			check(ctx.Err())
		}
	}
}

func print(message any) {
	check(json.NewEncoder(os.Stdout).Encode(message))
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
