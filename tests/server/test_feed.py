"""Events reach every follower once and in order, from whatever thread they come."""

import asyncio
import threading

from resight.server.feed import Feed


def test_followers_get_each_event_once_in_order_whenever_they_come():
    feed = Feed()

    def tell():
        for number in range(200):
            feed.tell("step", number, last=number == 199)
        feed.tell("step", "after the last")

    async def follow(after):
        return [event.data async for event in feed.follow(after) if event is not None]

    async def run():
        early = [asyncio.create_task(follow(0)) for _ in range(5)]
        await asyncio.sleep(0)
        thread = threading.Thread(target=tell)
        thread.start()
        found = await asyncio.gather(*early)
        thread.join()
        assert all(data == list(range(200)) for data in found)
        assert await follow(0) == list(range(200)) and await follow(150) == list(range(150, 200))
        assert await feed.end(1)

    asyncio.run(run())


def test_silence_is_told_and_waiting_has_an_end():
    async def run():
        feed = Feed()
        assert not await feed.end(0.02)
        beats = feed.follow(beat=0.01)
        assert await anext(beats) is None
        await beats.aclose()
        assert not feed._waiting

    asyncio.run(run())


def test_of_events_that_pass_only_the_newest_is_kept_and_each_follower_goes_on():
    async def run():
        feed = Feed()
        feed.tell("begun", 0)
        follower = feed.follow()
        assert (await anext(follower)).data == 0
        for number in range(1, 1001):
            feed.tell("progress", number, passing=True)
        assert len(feed._events) == 2 and (await anext(follower)).data == 1000
        feed.tell("progress", 1001, passing=True)
        feed.tell("done", "all", last=True)
        assert [event.data async for event in follower] == [1001, "all"]
        assert [event.number async for event in feed.follow()] == [1, 1002, 1003]
        assert [event.data async for event in feed.follow(after=700)] == [1001, "all"]

    asyncio.run(run())
