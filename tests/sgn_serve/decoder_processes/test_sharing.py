import asyncio
from io import BytesIO

import psutil

from sgn_serve.decoder_processes.decoder import DecoderLimits
from sgn_serve.decoder_processes.job import PictureOptions
from sgn_serve.decoder_processes.sharing import SharedDecoder
from tests.sgn_serve.decoder_processes import faults

LIMITS = DecoderLimits(processes=1, seconds=20.0, file_bytes=10 << 20)


def test_equal_decoders_share_their_processes_until_the_last_one_is_closed() -> None:
    def children() -> set[int]:
        return {child.pid for child in psutil.Process().children(recursive=True)}

    async def ask() -> None:
        before = children()
        first, second = (SharedDecoder(PictureOptions((8, 8), 100), LIMITS, faults.JOB) for _ in range(2))
        other = SharedDecoder(PictureOptions((4, 4), 100), LIMITS, faults.JOB)
        await first.start()
        alone = children() - before
        await second.start()
        assert children() - before == alone
        await other.start()
        assert children() - before > alone
        assert (await other.decode(BytesIO(b"well"), 0)).shape == (3, 4, 4)
        await first.close()
        await first.close()
        assert (await second.decode(BytesIO(b"well"), 0)).shape == (3, 8, 8)
        await second.close()
        assert not children() & alone
        await other.close()
        assert children() == before

    asyncio.run(ask())
