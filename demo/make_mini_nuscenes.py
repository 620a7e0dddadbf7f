"""Generate the miniature nuScenes that the BEVDet demo trains on."""
import argparse

from generators import generate_mini_nuscenes


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('root', nargs='?', default='data/mini_nuscenes', help='folder to create')
    parser.add_argument('--train', type=int, default=400, help='number of training keyframes')
    parser.add_argument('--val', type=int, default=60, help='number of validation keyframes')
    parser.add_argument('--test', type=int, default=80, help='number of test keyframes')
    parser.add_argument('--image-size', type=int, nargs=2, default=(352, 198),
                        metavar=('WIDTH', 'HEIGHT'), help='in pixels')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--overwrite', action='store_true', help='replace root if it exists')
    return parser.parse_args()


def main():
    args = parse_args()
    num_frames = dict(train=args.train, val=args.val, test=args.test)
    from sparsevit_mm.cli import clear_errors
    with clear_errors():
        print(generate_mini_nuscenes(args.root, num_frames, args.image_size, args.seed,
                                     args.overwrite))


if __name__ == '__main__':
    main()
