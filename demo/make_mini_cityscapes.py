"""Generate the miniature Cityscapes that the segmentation demo trains on."""
import argparse

from generators import generate_mini_cityscapes


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('root', nargs='?', default='data/mini_cityscapes', help='folder to create')
    parser.add_argument('--train', type=int, default=500, help='number of training images')
    parser.add_argument('--val', type=int, default=80, help='number of validation images')
    parser.add_argument('--test', type=int, default=120, help='number of test images')
    parser.add_argument('--image-size', type=int, nargs=2, default=(128, 256),
                        metavar=('HEIGHT', 'WIDTH'), help='in pixels')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--overwrite', action='store_true', help='replace root if it exists')
    return parser.parse_args()


def main():
    args = parse_args()
    num_images = dict(train=args.train, val=args.val, test=args.test)
    from sparsevit_mm.cli import clear_errors
    with clear_errors():
        print(generate_mini_cityscapes(args.root, num_images, args.image_size, args.seed,
                                       args.overwrite))


if __name__ == '__main__':
    main()
