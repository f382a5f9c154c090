"""What HAProxy's own counters say of each colour."""

from __future__ import annotations

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
