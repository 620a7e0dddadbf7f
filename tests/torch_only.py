"""A plugin of pytest for ``make test-torch``: tests that need a toolkit, or what an older torch can
not do, are skipped there with the reason. Other runs do not load it."""
import re

import pytest

TOOLKITS = 'mmdet', 'mmseg', 'mmdet3d', 'mmpretrain', 'optuna', 'onnx', 'onnxruntime', 'rich'
UNABLE = re.compile(
    r"not implemented for 'Half'|AutocastCPU only support Bfloat16|export needs torch >=|"
    r"is not installed, please install|'(RetinaNet|EncoderDecoder) is not in the mmengine")


def reason_of(error: BaseException) -> str:
    """Why a test can not run here; empty for a failure."""
    while error is not None:
        name = (getattr(error, 'name', None) or '').partition('.')[0]
        if isinstance(error, ModuleNotFoundError) and name in TOOLKITS:
            return f'needs {name}'
        if UNABLE.search(str(error)):
            return str(error).splitlines()[0]
        error = error.__cause__ or error.__context__
    return ''


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed and call.excinfo is not None:
        reason = reason_of(call.excinfo.value)
        if reason:
            report.outcome = 'skipped'
            report.longrepr = str(item.path), item.location[1], f'Skipped: {reason}'
    return report


def pytest_ignore_collect(collection_path):
    return True if 'bevdet' in collection_path.parts else None  # mmdet3d's throughout
