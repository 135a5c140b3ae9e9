"""A page that is served until Ctrl-C: the live page, and the one on which people judge."""

from typing import TYPE_CHECKING

from minigpt.cli import console

if TYPE_CHECKING:
    from minigpt.watch.server import Server


def show_page(server: "Server", what: str, after: str, browser: bool) -> None:
    """Serve a page, and open it in a browser; says `what` is at its address, and what Ctrl-C does."""
    from minigpt.watch.server import HOST

    address = f"http://{HOST}:{server.server_address[1]}/"
    console.note(f"{what} at {address}  (Ctrl-C ends the page{after}.)")
    if browser:
        import webbrowser

        webbrowser.open(address)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        console.note("The page is closed.")
    finally:
        server.server_close()
