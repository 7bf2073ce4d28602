// Reads from a StockPulse server with Alpaca's library for JavaScript, and prints what it got, one JSON object on a line.
const { marketData, streaming } = require("@alpacahq/alpaca-trade-api");

const [url, start, symbol] = process.argv.slice(2);
const symbols = "AAPL,MSFT,TSLA";

const print = (message) => console.log(JSON.stringify(message));

async function read() {
    const configuration = new marketData.Configuration({ keyId: "key", secret: "secret", basePath: url });
    const stocks = new marketData.StockApi(configuration);
    const bars = { AAPL: [], MSFT: [], TSLA: [] };
    const range = { symbols, timeframe: "1Min", start: new Date(start), limit: 10000 };
    for (let pageToken; pageToken !== null; ) {
        const page = await stocks.stockBars({ ...range, pageToken });
        for (const [name, rows] of Object.entries(page.bars)) {
            bars[name].push(...rows);
        }
        pageToken = page.nextPageToken ?? null;
    }
    const end = new Date(Date.parse(start) + 600_000);
    const { trades } = await stocks.stockTrades({ symbols, start: new Date(start), end });
    const latest = (await stocks.stockLatestTrades({ symbols })).trades;
    const snapshots = await stocks.stockSnapshots({ symbols });
    const movers = await new marketData.ScreenerApi(configuration).movers({ marketType: "stocks", top: 2 });
    print({ bars, trades, latest, snapshots, movers });
}

function listen() {
    const kinds = new Set();
    const stream = new streaming.StockDataStream({
        credentials: { keyId: "key", secret: "secret" },
        url: `${url.replace("http", "ws")}/v2/iex`,
    });
    const of = (kind) => (row) => {
        print({ kind, row });
        if (kinds.add(kind).size === 4) {
            stream.disconnect();
            process.exit(0);
        }
    };
    stream.onTrade(of("trade")).onBar(of("bar")).onUpdatedBar(of("updated")).onDailyBar(of("daily"));
    stream.onSubscription?.(() => {});
    stream.onError((error) => {
        console.error(error);
        process.exit(1);
    });
    stream.onConnect(() => {
        for (const subscribe of ["Trades", "Bars", "UpdatedBars", "DailyBars"]) {
            stream[`subscribeFor${subscribe}`]([symbol]);
        }
        setTimeout(() => print({ kind: "subscribed" }), 500);
    });
    stream.connect();
}

read().then(listen).catch((error) => {
    console.error(error);
    process.exit(1);
});
