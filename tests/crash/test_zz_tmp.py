import asyncio, time, pytest
from crash_harness import Load, Market
from crash_kafka import app_on_kafka
@pytest.mark.timeout(400)
async def test_x(kafka, topic):
    async with app_on_kafka(kafka, topic) as app:
        load = Load(app, Market(1, least=20000, most=60000, formats=("application/vnd.apache.arrow.stream",), in_parts=True))
        async with load.flowing():
            while load.ticks < 900_000:
                await asyncio.sleep(0.2)
        await load.end()
        await app.kill()
        print("RESTART", load.ticks, await app.start())
        for one in app.said("recovered")[-6:]: print(one)
        await app.kill()
        print("RESTART", await app.start())
