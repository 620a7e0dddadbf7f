"""What a bootstrap draws."""
import numpy as np
import pytest

from sparsevit_mm.evaluation.units import Frame, find_units, frames_of_coco, frames_of_files


def frames(*lengths):
    """Videos, one frame of each in turn, backwards."""
    return [Frame(f'video {v}', -i) for i in range(max(lengths)) for v, n in enumerate(lengths)
            if i < n]


def test_images_that_are_no_frames_are_drawn_by_themselves():
    units = find_units(4)
    assert units.of_image.tolist() == [0, 1, 2, 3] and units.text == '4 images'
    alone = find_units(12, [Frame(i, 0) for i in range(12)])
    assert alone.text == '12 images' and alone.number == 12


def test_ten_scenes_are_drawn_whole():
    lengths = [3, *[2] * 9]
    units = find_units(21, frames(*lengths), name='scene')
    assert units.text == '10 scenes' and np.bincount(units.of_image).tolist() == lengths
    assert units.of_image[0] == units.of_image[10] == units.of_image[20]


def test_of_fewer_scenes_blocks_of_consecutive_frames_within_them():
    held = frames(7, 20)  # 27 frames: blocks of 3
    units = find_units(27, held)
    assert units.text == '10 blocks of 3 consecutive frames' and units.number == 10
    for unit in range(10):
        inside = [held[i] for i in np.flatnonzero(units.of_image == unit)]
        positions = sorted(frame.position for frame in inside)
        assert len({frame.sequence for frame in inside}) == 1
        assert np.ptp(positions) == len(positions) - 1 <= 2


def test_a_block_asked_for_is_taken_in_any_case():
    assert find_units(12, None, 5).of_image.tolist() == [0] * 5 + [1] * 5 + [2] * 2
    assert find_units(21, frames(*[3] * 7), 2).text == '14 blocks of 2 consecutive frames'
    assert find_units(60, frames(*[3] * 20), 2).text == '40 blocks of 2 consecutive frames'


@pytest.mark.parametrize('names, sequences', [
    (['a/Seq05VD_f00330.png', 'a/Seq05VD_f00000.png', 'a/0001TP_006690.png'],
     ['Seq05VD_f', 'Seq05VD_f', '0001TP_']),
    (['lindau/lindau_000000_000019_leftImg8bit.png', 'lindau/lindau_000001_000019_leftImg8bit.png',
      'frankfurt/frankfurt_000000_000294_leftImg8bit.png'],
     ['lindau_000000_', 'lindau_000001_', 'frankfurt_000000_'])])
def test_sequences_by_file_names(names, sequences):
    found = frames_of_files(names)
    assert [frame.sequence[1] for frame in found] == sequences
    if 'Seq' in names[0]:
        assert [frame.position for frame in found] == [330, 0, 6690]


def test_videos_in_folders_are_told_by_them():
    found = frames_of_files([f'{v}/{i:03d}.jpg' for v in 'ab' for i in range(3)])
    assert [f.sequence for f in found] == [('a', '')] * 3 + [('b', '')] * 3


def test_numbered_photos_are_no_frames():
    assert frames_of_files(['000000000139.jpg', '000000000285.jpg']) is None
    assert frames_of_files(['ADE_val_00000001.png', 'ADE_val_00000002.png']) is None


def test_video_keys_of_coco_files_count_before_names():
    images = [dict(file_name=f'{i}.jpg', video_id=i // 2, frame_id=i) for i in range(4)]
    assert [f.sequence for f in frames_of_coco(images)] == [0, 0, 1, 1]
    assert frames_of_coco([dict(id=1), dict(id=2)]) is None
