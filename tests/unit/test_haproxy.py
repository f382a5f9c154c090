"""What HAProxy's own counters say of each colour."""

from __future__ import annotations

import re

from test_follow import rendered

from bluegreen.model import Colour, Counts
from bluegreen.proxies.haproxy import counted

COLUMNS = (
    "# pxname,svname,qcur,qmax,scur,smax,slim,stot,bin,bout,dreq,dresp,ereq,econ,eresp,wretr,wredis,status,weight,act,"
    "bck,chkfail,chkdown,lastchg,downtime,qlimit,pid,iid,sid,throttle,lbtot,tracked,type,rate,rate_lim,rate_max,"
    "check_status,check_code,check_duration,hrsp_1xx,hrsp_2xx,hrsp_3xx,hrsp_4xx,hrsp_5xx,hrsp_other,hanafail,req_rate,"
)


def row(backend: str, answers: str, *, moved: int = 0, server: str = "BACKEND") -> str:
    """A line as HAProxy 2.6 and 3.2 write it; `answers` are those of 1xx to 5xx, and others."""
    return (
        f"{backend},{server},0,0,0,1,999,2,68,98,0,0,,1,0,3,{moved},UP,0,0,0,,0,4,,,1,3,0,,0,,1,0,,2,,,,{answers},,,"
    )


def stats(*rows: str) -> str:
    return "\n".join([COLUMNS, *rows, ""])


def test_all_pools_of_a_colour_count_together() -> None:
    text = stats(
        row("shop_blue", "0,100,20,3,1,0"),
        row("shop_blue_ws", "4,0,0,1,0,0"),
        row("shop_green", "0,0,0,0,0,0"),
        row("shop_green_first", "0,50,0,0,7,1"),
        row("shop_green_first_ws", "2,0,0,0,1,0"),
    )
    assert counted(text, "shop") == {Colour.BLUE: Counts(125, 1), Colour.GREEN: Counts(59, 8)}


def test_only_backends_of_this_service_count() -> None:
    text = stats(
        row("shop_blue", "0,9,0,0,9,0", server="new1"),
        row("shop_status", "0,9,0,0,9,0"),
        row("web_shop_blue", "0,9,0,0,9,0"),
        row("shop_blue_blue", "0,9,0,0,9,0"),
        row("shop.tcp", ",,,,,", server="FRONTEND"),
        row("shop_blue", ",,,,,"),
    )
    assert counted(text, "shop") == {Colour.BLUE: Counts(), Colour.GREEN: Counts()}


def test_what_another_server_answered_instead_is_an_error_of_the_release() -> None:
    assert counted(stats(row("shop_green_first", "0,10,0,0,2,0", moved=3)), "shop")[Colour.GREEN] == Counts(12, 5)
    assert counted(stats(row("shop_green_first", "0,1,0,0,0,0", moved=3)), "shop")[Colour.GREEN] == Counts(1, 1)


def checks(replicas: int) -> float:
    """How many checks a second HAProxy makes of all pools of a service, one colour of which has so many replicas."""
    total = 0.0
    for pool in rendered("haproxy", *range(replicas)).split("\nbackend ")[1:]:
        paced = re.search(r"default-server check inter ([0-9]+)ms", pool)
        total += len(re.findall(r"^ +server ", pool, re.MULTILINE)) * 1000 / int(paced[1]) if paced else 0
    return total


def test_no_number_of_replicas_makes_its_checks_more_than_fifty_a_second_of_each_pool() -> None:
    assert checks(3) == 2 * 3 + 4 * (3 + 1) * 5
    assert [round(checks(replicas)) for replicas in (60, 100)] == [6 * 50] * 2


def test_a_second_look_comes_as_soon_as_ever() -> None:
    text = rendered("haproxy", *range(100))
    assert "check inter 2000ms fastinter 1000ms fall 2 rise 2 observe layer4" in text
    assert "check inter 2020ms fastinter 200ms fall 1 rise 1 observe layer4" in text
    assert "fastinter" not in rendered("haproxy", *range(9))
